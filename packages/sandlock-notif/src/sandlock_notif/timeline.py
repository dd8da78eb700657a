"""What a run does over time, for whoever looks at it later: its processes, the calls that are answered, its memory.

    process  lane, pid, parent, what: began | exec | ended, program, age_s
    sample   span_s, notifications {call: times}, memory_bytes, unlisted

It decides nothing and a failure in it changes no verdict. The program decides how many processes there are and how
long it runs, so both are bounded: samples become rarer, and what is beyond the lanes is only counted. A process that
asks the supervisor nothing is seen by a sample, or when it ends by itself (`handlers.endings`); one that is killed
before is not.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from sandlock_notif.tree import between, look
from sandlock_notif.usage import has_executed
from sandlock_sys.proc import read_stat

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from sandlock_notif.processes import Process, Processes

    Note: TypeAlias = Callable[[str, Mapping[str, object]], None]

__all__ = ["MOST_LANES", "Pace", "Timeline"]

MOST_LANES = 200
"""Processes that are told one by one."""
_MOST_EXECS = 400  # that are told, of all of them
_LONGEST = 100  # characters of a program's path, its end
_SHARE = 50  # at most one part in so many of the time goes into looking
_TICKS_S = 1 / os.sysconf("SC_CLK_TCK")


class Pace:
    """When to sample: sixty times, and from then on half as often as before whenever that has doubled the time.

    Attributes:
        width_s: seconds from one sample to the next.

    """

    __slots__ = ("_count", "width_s")

    def __init__(self, width_s: float = 0.01) -> None:
        self.width_s = width_s
        self._count = 0

    def step(self) -> float:
        """Return after how many seconds the next sample is due."""
        self._count += 1
        if self._count >= 60:
            self._count //= 2
            self.width_s *= 2
        return self.width_s


class _Lane:
    __slots__ = ("number", "process", "program")

    def __init__(self, number: int, process: Process, program: str) -> None:
        self.number, self.process, self.program = number, process, program


class Timeline:
    """Notes what happens in one sandbox, from `begin` to `close`; in the loop's thread.

    Arguments:
        note: takes the kind of a line, and what is in it.
        answered: returns how often each call was answered so far, by its name.
        memory: returns the largest use since it was asked last, or None where nobody looks at it.

    """

    def __init__(self, note: Note, answered: Callable[[], Mapping[str, int]], memory: Callable[[], int | None]) -> None:
        self._note, self._answered, self._memory = note, answered, memory
        self._pace = Pace()
        self._lanes: dict[Process, _Lane] = {}
        self._listed = self._unlisted = self._execs = 0
        self._told: tuple[object, ...] = (None, 0)
        self._counts: Mapping[str, int] = {}
        self._sampled = time.monotonic()
        self._first = 0
        self._outside: frozenset[int] | None = None
        self._processes: Processes | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, processes: Processes, pid: int) -> None:
        """Begin with the first process, `pid`, which may be parked."""
        self._loop, self._processes, self._first = loop, processes, pid
        for known in processes.snapshot():
            self._began(known)
        processes.on_start(self._welcome)
        processes.on_exit(self._ended)
        with suppress(OSError, ValueError):  # it may have ended by now; then there is nobody to look for
            self._outside = between(processes.root, pid)
            processes.register(pid)
        self._timer = loop.call_later(self._pace.width_s, self._tick)

    def last_look(self, process: Process) -> None:
        """Note what a process runs that is about to end; later there is nobody to ask."""
        lane = self._lanes.get(process)
        if lane is not None and self._processes is not None:
            self._look_at(lane)

    def close(self) -> None:
        """Note what there is, and stop; the processes that are left have ended or are none of its business."""
        if self._timer is None or self._processes is None:
            return
        self._timer.cancel()
        self._timer = None
        self._processes.prune()
        self._sample()
        self._processes = None

    def _tick(self) -> None:
        if self._processes is None or self._loop is None:
            return
        begin = time.thread_time()
        if self._outside is not None and self._listed < MOST_LANES:
            with suppress(OSError, ValueError):
                look(self._processes, self._outside)
        for lane in tuple(self._lanes.values()):
            self._look_at(lane)
        self._sample()
        cost = time.thread_time() - begin
        self._timer = self._loop.call_later(max(self._pace.step(), cost * _SHARE), self._tick)

    def _welcome(self, process: Process) -> None:
        with suppress(Exception):  # whoever registers it decides about a call
            if self._processes is not None:
                self._began(process)

    def _began(self, process: Process) -> None:
        if self._listed >= MOST_LANES:
            self._unlisted += 1
            return
        self._listed += 1
        parent = 0
        with suppress(OSError, ValueError):
            found = read_stat(process.pid)
            parent = found.ppid if found.starttime == process.start else 0
        lane = self._lanes[process] = _Lane(self._listed, process, self._program_of(process))
        age_s = max(time.clock_gettime(time.CLOCK_BOOTTIME) - process.start * _TICKS_S, 0.0)
        self._tell(lane, "began", {"parent": parent, "program": lane.program, "age_s": round(age_s, 3)})

    def _ended(self, process: Process) -> None:
        lane = self._lanes.pop(process, None)
        if lane is not None and self._processes is not None:
            self._tell(lane, "ended", {})

    def _look_at(self, lane: _Lane) -> None:
        program = self._program_of(lane.process)
        if program and program != lane.program and self._execs < _MOST_EXECS and lane.process.alive():
            self._execs += 1
            lane.program = program
            self._tell(lane, "exec", {"program": program})

    def _program_of(self, process: Process) -> str:
        """Return what a process runs, "" where that is not known; the first one runs nothing of its own at first."""
        if process.pid == self._first and not has_executed(process.pid):
            return ""
        with suppress(OSError, ValueError):
            try:
                return os.readlink(f"/proc/{process.pid}/exe")[-_LONGEST:]
            except PermissionError:  # who shows nobody its memory still has a name
                return os.fsdecode(read_stat(process.pid).comm)
        return ""

    def _sample(self) -> None:
        now = time.monotonic()
        span_s, self._sampled = now - self._sampled, now
        counts = self._answered()
        fresh = {name: count - self._counts.get(name, 0) for name, count in counts.items()}
        fresh = {name: count for name, count in fresh.items() if count}
        self._counts = counts
        used = self._memory()
        if fresh or (used, self._unlisted) != self._told:
            self._told = used, self._unlisted
            line = {"span_s": round(span_s, 4), "notifications": fresh, "memory_bytes": used}
            self._put("sample", {**line, "unlisted": self._unlisted})

    def _tell(self, lane: _Lane, what: str, more: Mapping[str, object]) -> None:
        self._put("process", {"lane": lane.number, "pid": lane.process.pid, "what": what, **more})

    def _put(self, kind: str, facts: Mapping[str, object]) -> None:
        with suppress(Exception):  # whoever cannot write it down keeps nobody from anything
            self._note(kind, facts)
