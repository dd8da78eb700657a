"""Deadlines lent to the kernel: a structure of the child that must read differently while the kernel copies it.

The kernel alone can sleep so that signals interrupt it, so the call must go on, with the deadline on the real clock. It
is written where the program put its own, and put back as soon as the call has read it: the program may use its
structure again, and compute with it. Whoever looks meanwhile sees the real clock, which is no secret (INF-09).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from sandlock_notif import memory
from sandlock_notif.errors import Refusal
from sandlock_notif.task_facts import current_call
from sandlock_sys import procmem
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    import asyncio

    from sandlock_notif.processes import Process, Processes
    from sandlock_notif.request import Request

__all__ = ["TIMESPEC", "Deadlines", "decide_deadline"]

TIMESPEC = 16  # bytes of struct __kernel_timespec
_SECOND = 1_000_000_000
_LATEST = (1 << 63) // _SECOND - 1  # seconds; KTIME_SEC_MAX, linux/ktime.h
_FIRST_LOOK_S = 0.0005
_LAST_LOOK_S = 0.5


def decide_deadline(timespec: bytes, offset_ns: int) -> bytes | None:
    """Return an absolute time on the real clock for one on the clock that is `offset_ns` ahead of it.

    None for what the kernel refuses, which must reach it as it is. A time before 1970 is 1970, long ago as well.
    """
    seconds, fraction = int.from_bytes(timespec[:8], "little", signed=True), int.from_bytes(timespec[8:16], "little")
    if seconds < 0 or fraction >= _SECOND:
        return None
    real, fraction = divmod(seconds * _SECOND + fraction - offset_ns, _SECOND)
    if real < 0:
        real = fraction = 0
    return min(real, _LATEST).to_bytes(8, "little") + fraction.to_bytes(8, "little")


class _Lent:
    """What lies at `address` while the kernel reads it."""

    __slots__ = ("address", "call", "fd", "lent", "own", "tid", "wait_s")

    def __init__(self, tid: int, call: int, fd: int, address: int, own: bytes, lent: bytes) -> None:
        self.tid = tid
        self.call = call
        self.fd = fd
        self.address = address
        self.own = own
        self.lent = lent
        self.wait_s = _FIRST_LOOK_S


class Deadlines:
    """Lends deadlines and takes them back. Used in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, processes: Processes) -> None:
        self._loop = loop
        self._processes = processes
        self._lent: dict[tuple[Process, int], _Lent] = {}

    def lend(self, request: Request, address: int, offset_ns: int) -> None:
        """Let the kernel find the deadline at `address` on its own clock, when this call reads it.

        Nothing is done where it cannot be read or written: then the kernel cannot either, or the call fails.

        Raises:
            VanishedError: the task no longer waits.

        """
        key = self._processes.of(request), address
        before = self._lent.get(key)
        if before is not None:
            self._take_back(before)
            del self._lent[key]
        try:
            own = memory.read(request, address, TIMESPEC)
            real = decide_deadline(own, offset_ns)
            if real is None:
                return
            fd = procmem.open_memory(request.tid, write=True)
        except (Refusal, SyscallError):
            return
        try:
            memory.write(request, address, real)
        except BaseException:
            os.close(fd)
            raise
        lent = self._lent[key] = _Lent(request.tid, request.nr, fd, address, own, real)
        self._loop.call_later(lent.wait_s, self._look, key, lent)

    def close(self) -> None:
        """Forget what is lent."""
        while self._lent:
            os.close(self._lent.popitem()[1].fd)

    def _look(self, key: tuple[Process, int], lent: _Lent) -> None:
        if self._lent.get(key) is not lent:
            return
        # A thread that is let go runs until it has read its deadline; once it is blocked, it has, or is in a next call.
        running = True
        with suppress(OSError):
            running = current_call(lent.tid) is None
        if running and lent.wait_s < _LAST_LOOK_S and not key[0].gone:
            lent.wait_s *= 2
            self._loop.call_later(lent.wait_s, self._look, key, lent)
            return
        del self._lent[key]
        self._take_back(lent)

    def _take_back(self, lent: _Lent) -> None:
        # Safety: the fd stays with the memory that the deadline was written to, and only our own bytes are replaced.
        with suppress(SyscallError):
            if procmem.peek(lent.fd, lent.address, TIMESPEC) == lent.lent:
                procmem.poke(lent.fd, lent.address, lent.own)
        os.close(lent.fd)
