"""What tools/sanitize.py looks at: the buffers of raw system calls, every input that the fuzzer learned from, races."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from sanitize import HERE as CALLS
from sanitize import SOURCES, compile_fuzzer, compile_race, unpack

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


# Reads the inputs from the files that are named.
REPLAY = r"""
#include <stdio.h>

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int main(int argc, char **argv)
{
    static unsigned char bytes[1 << 16];
    for (int index = 1; index < argc; index++) {
        FILE *file = fopen(argv[index], "rb");
        size_t size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        LLVMFuzzerTestOneInput(bytes, size);
    }
    puts("done");
    return 0;
}
"""


def test_no_known_input_leads_the_serving_of_notifications_astray(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    unpack(inputs)
    files = sorted(inputs.iterdir())
    assert len(files) > 100
    (tmp_path / "replay.c").write_text(REPLAY)
    compile_fuzzer(tmp_path / "replay", tmp_path / "replay.c")
    done = subprocess.run([tmp_path / "replay", *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_all_who_use_a_deputy_at_once_do_not_race(tmp_path: Path) -> None:
    compile_race(tmp_path / "race")
    done = subprocess.run([tmp_path / "race"], capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel's addresses are too random for ThreadSanitizer")
    assert (done.returncode, done.stderr) == (0, "")
