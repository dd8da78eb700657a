"""Another process that renames a file as fast as it can: the kernel's walks of `..` are disturbed by any rename."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["renaming"]

_SOURCE = """
import os, sys
one, two = sys.argv[1], sys.argv[1] + "-"
os.rename(one, two)
print(flush=True)
while True:
    os.rename(two, one)
    os.rename(one, two)
"""


@contextmanager
def renaming(file: Path) -> Iterator[None]:
    """Make `file` and have it renamed, and back, until the block ends."""
    file.touch()
    with subprocess.Popen([sys.executable, "-c", _SOURCE, str(file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # it is a pipe
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()
