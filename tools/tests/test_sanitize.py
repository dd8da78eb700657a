"""What tools/sanitize.py adds to a sanitizer: the buffers of raw system calls."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from workspace import ROOT

CALLS = ROOT / "tools/sanitize"
SOURCES = ROOT / "packages/sandlock-sys/src/sandlock_sys/_csrc"

# Reads a link into 16 bytes of the heap, and says that there are as many as its argument tells.
SOURCE = r"""
#include <stdlib.h>
#include "raw.h"

int main(int argc, char **argv)
{
    char *name = malloc(16);
    long size = RAW(__NR_readlinkat, -100, "/proc/self/exe", name, atoi(argv[1]));
    free(name);
    return size <= 0;
}
"""

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


def build(folder: Path, *more: str) -> Path:
    source, program = folder / "program.c", folder / "program"
    source.write_text(SOURCE)
    options = ["-g", "-fsanitize=address", f"-I{SOURCES}", *more]
    subprocess.run(["gcc", *options, str(source), "-o", str(program)], check=True)
    return program


def run(program: Path, size: int) -> tuple[bool, str]:
    done = subprocess.run([program, str(size)], capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stderr


def test_the_kernel_is_caught_writing_behind_a_buffer(tmp_path: Path) -> None:
    looked_at = ["-include", str(CALLS / "calls.h"), str(CALLS / "calls.c"), "-Wl,--wrap=clone,--wrap=munmap"]
    program = build(tmp_path, *looked_at)
    assert run(program, 16) == (True, "")
    well, report = run(program, 17)
    assert not well
    assert "heap-buffer-overflow" in report


def test_the_sanitizer_alone_does_not_see_it(tmp_path: Path) -> None:
    assert run(build(tmp_path), 17) == (True, "")
