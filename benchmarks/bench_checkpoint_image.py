"""What saving and reading an image costs, as multiples of copying the same bytes: in memory, and with dd to the disk.

The source hands out one block of random bytes over and over, so that what is measured is the image and not the making
of its contents. `--size MIB` sets how much (512), `--disk DIR` where the disk is.
"""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing

from measure import compare, report

from sandlock_checkpoint import image
from sandlock_checkpoint.image.save import areas_of
from sandlock_checkpoint.memory import Area, Location, Mapping, MappingKind, Run
from sandlock_checkpoint.model import (
    Checkpoint,
    Layout,
    ProcessInfo,
    Registers,
    RobustList,
    Rseq,
    Scheduling,
    SignalStack,
    ThreadState,
)
from sandlock_checkpoint.terms import Leave, Scope

BLOCK = 1 << 20


class Repeated:
    """A source that copies one block; `closed` tells when it was let go."""

    def __init__(self, on_close: Callable[[], object] = lambda: None) -> None:
        self._data = memoryview(os.urandom(BLOCK))
        self._on_close = on_close

    def read(self, area: Area, runs: Sequence[Run], into: memoryview) -> None:
        """Fill `into`."""
        into[:] = self._data[: len(into)]

    def locate(self, area: Area, run: Run) -> Location | None:
        """Nowhere."""
        return None

    def close(self) -> None:
        """Let go."""
        self._on_close()


def checkpoint(size: int) -> Checkpoint:
    """One process with one mapping."""
    thread = ThreadState(
        tid=1, name=b"x", registers=(Registers("general", 1, bytes(216)),), restart="", syscall=-1, deadline_ns=0,
        signal_mask=0, pending=(), signal_stack=SignalStack(0, 2, 0), robust_list=RobustList(0, 0),
        rseq=Rseq(0, 0, 0, 0), tid_address=0, scheduling=Scheduling(0, 0, 0, (0,)),
    )  # fmt: skip
    mapping = Mapping(1 << 30, (1 << 30) + size, MappingKind.ANONYMOUS, 3, False, 0, b"", runs=(Run(0, size),))
    process = ProcessInfo(
        pid=1, parent=-1, process_group=1, session=1, exe=b"/x", cwd=b"/", root=b"/", umask=0, personality=0,
        dumpable=1, no_new_privs=True, child_subreaper=False, thp_disable=False, uid=(0,) * 4, gid=(0,) * 4, groups=(),
        exit_signal=17, layout=Layout(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b""), mappings=(mapping,), threads=(thread,),
        descriptors=(), actions=(), pending=(), interval_timers=(), posix_timers=(), next_timer_id=-1, limits=(),
    )  # fmt: skip
    return Checkpoint(
        name="", architecture="x86_64", kernel="", page_size=4096, captured_ns=0, monotonic_ns=0, scope=Scope.PROCESS,
        leave=Leave.RUNNING, processes=(process,), files=(), shared=(), pipes=(), sockets=(), vdso_digest="",
        unsupported=(), source=Repeated(),
    )  # fmt: skip


def option(name: str, default: str) -> str:
    """Return the word behind `name` on the command line."""
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def copy_into_fresh_memory(data: memoryview) -> None:
    """Memcpy to memory that was not touched before, as a page cache is not either."""
    with closing(mmap.mmap(-1, len(data))) as target:
        view = memoryview(target)
        view[:] = data
        view.release()


def read_all(path: str, buffer: memoryview) -> None:
    """Load an image, and read all of it, 64 MiB at a time."""
    with image.load(path) as loaded:
        for area, runs in areas_of(loaded):
            for offset, length in runs:
                for start in range(offset, offset + length, len(buffer)):
                    count = min(len(buffer), offset + length - start)
                    loaded.source.read(area, [Run(start, count)], buffer[:count])


def main() -> None:
    """Measure."""
    size = int(option("--size", "512")) << 20
    memory = tempfile.mkdtemp(dir="/dev/shm")
    disk = tempfile.mkdtemp(dir=option("--disk", os.path.expanduser("~")))
    data = mmap.mmap(-1, size)
    source = memoryview(data)
    source[:] = bytes(os.urandom(BLOCK)) * (size // BLOCK)
    buffer = memoryview(bytearray(64 << 20))
    warm = memoryview(mmap.mmap(-1, size))
    warm[:] = source
    try:
        image.save(checkpoint(size), f"{memory}/base")
        cases = {
            "save to tmpfs": (lambda: image.save(checkpoint(size), f"{memory}/image"), 1 / 0.6),
            "load and read all, checksums too": (lambda: read_all(f"{memory}/base", buffer), 1 / 0.6),
            "save what did not change, compared": (
                lambda: image.save(checkpoint(size), f"{memory}/next", parent=f"{memory}/base"), None,
            ),
            "memcpy into warm memory": (lambda: warm.__setitem__(slice(None), source), None),
        }  # fmt: skip
        base = ("memcpy into fresh memory", lambda: copy_into_fresh_memory(source))
        report(f"An image of {size >> 20} MiB in memory", compare(base, cases, rounds=5))
        shutil.rmtree(memory)
        os.mkdir(memory, 0o700)
        with open(f"{memory}/data", "wb") as file:
            file.write(source)
        dd = ["dd", f"if={memory}/data", f"of={disk}/data", "bs=1M", "conv=fsync", "status=none"]
        disk_base = ("dd conv=fsync", lambda: subprocess.run(dd, check=True))
        on_disk = {"save to disk": (lambda: image.save(checkpoint(size), f"{disk}/image"), 1 / 0.9)}
        report(f"An image of {size >> 20} MiB on the disk", compare(disk_base, on_disk, rounds=5))
    finally:
        shutil.rmtree(memory, ignore_errors=True)
        shutil.rmtree(disk, ignore_errors=True)


if __name__ == "__main__":
    main()
