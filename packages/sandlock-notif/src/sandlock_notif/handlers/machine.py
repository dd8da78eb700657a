"""The machine that a sandbox seems to have: sysinfo(2), and the contents of /proc/loadavg, uptime, stat and meminfo.

Where the sandbox has a /proc of its own the kernel and init tell all but the memory, and this writes that into a file
anew; elsewhere the files are generated when they are opened.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from sandlock_notif import memory
from sandlock_notif.action import Action, Value
from sandlock_notif.content.machine import (
    Load,
    Tally,
    loadavg_text,
    meminfo_text,
    stat_since,
    stat_text,
    sysinfo,
    uptime_text,
)
from sandlock_notif.dispatch import HandlerTable, Services, Trap
from sandlock_notif.task_facts import contents, threads_of
from sandlock_notif.tree import between, look

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from sandlock_notif.handlers.memory import MemoryLimit
    from sandlock_notif.processes import Process
    from sandlock_notif.request import Request

__all__ = ["MachineTable"]

_SHARE = 20  # of the loop's time, one part in so many goes into counting
_NS_PER_TICK = 10_000_000  # USER_HZ is 100 everywhere here
_REFRESH_S = 1.0  # of a written meminfo: use is sampled anyway


class MachineTable(HandlerTable):
    """Tells of the sandbox what the kernel would tell of the whole machine.

    Arguments:
        processors: how many are shown.
        booted_s: when it was started, in its own wall clock's seconds since 1970.
        limit: its max_memory and who samples it, or None: then the machine's memory is shown.

    """

    name = "machine"
    while_parked = False

    def __init__(self, processors: int, booted_s: int, limit: MemoryLimit | None) -> None:
        self._processors = processors
        self._booted_s = booted_s
        self._limit = limit
        self._load = Load()
        self._started = time.monotonic()
        self._boot_ticks = 0
        self._services: Services | None = None
        self._outside: frozenset[int] = frozenset()
        self._timers: list[asyncio.TimerHandle] = []
        self._written = -1
        self._shown = -1
        self._counted = Tally()
        self._fresh_until = 0.0

    def traps(self) -> Sequence[Trap]:
        """Return the one call."""
        return (Trap("sysinfo", self._sysinfo, "memory, load and time since boot are the sandbox's", (), "memory"),)

    def show_memory(self, fd: int) -> bool:
        """Write /proc/meminfo into `fd`, now the table's, while the sandbox runs."""
        self._written = fd
        return True

    def attach(self, services: Services) -> None:
        """Start the clock, and to count."""
        self._services = services
        self._started = time.monotonic()
        self._boot_ticks = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _NS_PER_TICK
        with suppress(OSError):  # it has ended
            self._outside = between(services.processes.root, services.pid)
        self._timers = [services.loop.call_later(Load.PERIOD_S, self._sample)]
        if self._written >= 0:
            self._timers.append(services.loop.call_later(_REFRESH_S, self._refresh))

    async def close(self) -> None:
        """Stop."""
        for timer in self._timers:
            timer.cancel()
        if self._written >= 0:
            os.close(self._written)
            self._written = -1

    def loadavg(self, _: Process) -> bytes:
        """Return /proc/loadavg."""
        return loadavg_text(self._load, self._tally())

    def uptime(self, _: Process) -> bytes:
        """Return /proc/uptime."""
        return uptime_text(self._up_s(), self._processors, self._tally())

    def stat(self, _: Process) -> bytes:
        """Return /proc/stat."""
        return stat_text(self._up_s(), self._processors, self._booted_s, self._tally())

    def process_stat(self, pid: int) -> bytes:
        """Return /proc/PID/stat, where its start counts from the sandbox's; OSError when it is gone."""
        return stat_since(contents(f"/proc/{pid}/stat"), self._boot_ticks)

    def meminfo(self, _: Process) -> bytes:
        """Return /proc/meminfo."""
        if self._limit is None:
            return contents("/proc/meminfo")
        return meminfo_text(*self._memory())

    def _sysinfo(self, request: Request) -> Action:
        memory.write(request, request.args[0], sysinfo(self._up_s(), self._load, self._memory(), self._tally()))
        return Value(0)

    def _up_s(self) -> float:
        return time.monotonic() - self._started

    def _memory(self) -> tuple[int, int]:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
        if self._limit is None:
            return total, total - free
        return min(self._limit.limit, total), self._limit.used

    def _sample(self) -> None:
        assert self._services is not None  # noqa: S101  # attach sets the timer
        tally = self._tally()
        self._load.add(tally.running + tally.blocked)
        self._timers[0] = self._services.loop.call_later(Load.PERIOD_S, self._sample)

    def _refresh(self) -> None:
        assert self._services is not None  # noqa: S101  # as above
        used = self._memory()[1]
        if used != self._shown:
            text = meminfo_text(*self._memory())
            os.pwrite(self._written, text, 0)
            os.ftruncate(self._written, len(text))
            self._shown = used
        self._timers[1] = self._services.loop.call_later(_REFRESH_S, self._refresh)

    def members(self) -> set[Process]:
        """Return the processes of the sandbox, as one walk finds them."""
        assert self._services is not None  # noqa: S101  # attached before the first request
        with suppress(OSError, ValueError):  # the guard has ended
            return look(self._services.processes, self._outside)[0]
        return set()

    def _tally(self) -> Tally:
        """Count the tree, without whoever ends meanwhile. However often it is asked, it takes little of the loop."""
        now = time.monotonic()
        if now < self._fresh_until:
            return self._counted
        self._counted = Tally()
        for member in self.members():
            with suppress(OSError, ValueError):
                _count(member.pid, self._counted)
        ended = time.monotonic()
        self._fresh_until = ended + (ended - now) * _SHARE
        return self._counted


def _count(pid: int, tally: Tally) -> None:
    state, numbers = _stat_of(f"/proc/{pid}/stat")
    tally.user += numbers[14] + numbers[16]  # proc_pid_stat(5)
    tally.system += numbers[15] + numbers[17]
    tally.threads += numbers[20]
    tally.newest = max(tally.newest, pid)
    states = [state]
    if numbers[20] > 1:
        states = [_stat_of(f"/proc/{pid}/task/{tid}/stat")[0] for tid in threads_of(pid)]
    tally.running += states.count(b"R")
    tally.blocked += states.count(b"D")


def _stat_of(path: str) -> tuple[bytes, list[int]]:
    """Return a task's state, and its numbers by those of proc_pid_stat(5)."""
    data = contents(path)
    words = data[data.rindex(b")") + 2 :].split()
    return words[0], [0, 0, 0, 0, *(int(word) for word in words[1:18])]
