"""The fixture `compile_c`: small static C programs for what Python cannot do inside a sandbox."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["compile_c"]


@pytest.fixture(scope="session")
def compile_c() -> Iterator[Callable[..., Path]]:
    """`compile_c(source, *flags) -> path`: build once per session, static, in a folder that every user can reach.

    Raises AssertionError with the compiler's words if the source does not build.
    """
    folder = Path(tempfile.mkdtemp(prefix="sandlock-programs-"))
    folder.chmod(0o755)  # pytest's own temporary folders are 0700: a program there is out of another user's reach

    def compile_once(source: str, *flags: str) -> Path:
        program = folder / hashlib.sha256(repr((source, flags)).encode()).hexdigest()[:16]
        if not program.exists():
            text = program.with_suffix(".c")
            text.write_text(source)
            command = ["cc", "-std=gnu11", "-O1", "-Wall", "-static", "-pthread", *flags]
            done = subprocess.run(
                [*command, "-o", str(program), str(text)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"cc failed:\n{done.stderr}"
        return program

    yield compile_once
    shutil.rmtree(folder)
