"""Make shared memory anew inside a process."""

from __future__ import annotations

import os

from sandlock_checkpoint.errors import RestoreError
from sandlock_checkpoint.memory import Area, MemorySource, SharedMemory
from sandlock_checkpoint.restore.filling import chunks
from sandlock_checkpoint.restore.target import Target
from sandlock_sys import pidfd

__all__ = ["make_shared", "seal_shared"]

_CLOSE_ON_EXEC, _ALLOW_SEALING = 1, 2  # MFD_CLOEXEC, MFD_ALLOW_SEALING, linux/memfd.h, 3.17
_ADD_SEALS = 1033  # F_ADD_SEALS, linux/fcntl.h
_PIECE = 8 << 20  # read and written at a time


def make_shared(target: Target, number: int, memory: SharedMemory, source: MemorySource) -> int:
    """Make one piece of shared memory, filled, and return its descriptor in the process.

    Whatever it was, it becomes a memfd: that can be mapped at any offset, by any process of the tree.
    """
    name = os.path.basename(memory.name)[:200]
    flags = _CLOSE_ON_EXEC | _ALLOW_SEALING | memory.memfd_flags
    fd = target.call("memfd_create", target.put(name + b"\0"), flags)
    target.call("ftruncate", fd, memory.size)
    process = pidfd.open_pidfd(target.pid)
    try:
        own = pidfd.getfd(process, fd)
    finally:
        os.close(process)
    try:
        buffer = memoryview(bytearray(min(_PIECE, sum(run.length for run in memory.runs))))
        for batch in chunks(memory.runs, _PIECE):
            view = buffer[: sum(run.length for run in batch)]
            source.read(Area(-1, number), batch, view)
            done = 0
            for run in batch:
                # The last page may reach behind the end of the object.
                length = min(run.length, memory.size - run.offset)
                if os.pwrite(own, view[done : done + length], run.offset) != length:
                    raise RestoreError(f"shared memory {number}", "it was written short")
                done += run.length
    finally:
        os.close(own)
    return fd


def seal_shared(target: Target, fd: int, memory: SharedMemory) -> None:
    """Put the seals of a memfd back; it has all its mappings by now, which some seals would refuse."""
    if memory.kind == "memfd" and memory.seals:
        target.call("fcntl", fd, _ADD_SEALS, memory.seals)
