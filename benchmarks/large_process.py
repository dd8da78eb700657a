"""A process with much memory, for the benchmarks of checkpoints; and how long one stands still."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandlock_checkpoint import Checkpoint

__all__ = ["ends_of", "ranges_of", "start_large", "write_share"]

_PROGRAM = """
import mmap, os, sys, time
size = int(sys.argv[1]) << 20
area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block = os.urandom(1 << 20)
for at in range(0, size, 1 << 20):
    area[at : at + (1 << 20)] = block
print("ready", flush=True)
for line in sys.stdin:
    share = int(line)
    for page in range(0, size // 4096, 100 // share) if share else ():
        area[page * 4096] = (area[page * 4096] + 1) % 256
    print("done", flush=True)
os.close(1)
time.sleep(600)
"""


def start_large(mib: int, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start a process with so much memory in use. With stdin=PIPE it takes the orders of `write_share`."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(mib)],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    if stdin == subprocess.DEVNULL:
        assert process.stdout.read() == b""  # it has closed its end: nothing leads to us
    return process


def write_share(process: subprocess.Popen[bytes], share: int) -> float:
    """Have it write this many per cent of its pages; return the seconds it took."""
    assert process.stdin is not None
    assert process.stdout is not None
    began = time.perf_counter()
    process.stdin.write(b"%d\n" % share)
    process.stdin.flush()
    process.stdout.readline()
    return time.perf_counter() - began


def ranges_of(checkpoint: Checkpoint) -> list[tuple[int, int]]:
    """Return address and length of what its process has."""
    mappings = checkpoint.processes[0].mappings
    return [(one.start + run.offset, run.length) for one in mappings for run in one.runs]


def ends_of(checkpoint: Checkpoint) -> list[float]:
    """Return a list that gets the moment when its processes are let go."""
    ended: list[float] = []
    close = checkpoint.source.close

    def closing() -> None:
        close()
        ended.append(time.perf_counter())

    checkpoint.source.close = closing  # type: ignore[method-assign]
    return ended
