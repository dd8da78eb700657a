"""time_start: the wall clock of a sandbox starts where it is told to, and runs.

The vDSO of every image is changed before it runs, so a program that asks the time there pays one system call. The calls
that it makes by itself are notified, as is the vsyscall page, which the kernel serves through the same filter. Absolute
deadlines are turned into real ones. Spans stay what they are: CLOCK_MONOTONIC and its kin, relative timeouts, and the
times of files, which are the file system's.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from sandlock_arch.stub import SHIFTED_CLOCKS, SHIFTING_MARK, shifted_time
from sandlock_notif import memory
from sandlock_notif.action import Action, Value
from sandlock_notif.deadlines import Deadlines
from sandlock_notif.dispatch import HandlerTable, Services, Trap
from sandlock_notif.task_facts import contents
from sandlock_policy.seccomp.rules import Condition, has_bits, not_one_of, one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandlock_arch.stub import StubOperation
    from sandlock_notif.image import Image
    from sandlock_notif.processes import Process
    from sandlock_notif.request import Request

__all__ = ["TimeTable"]

_COARSE = 5  # CLOCK_REALTIME_COARSE, linux/time.h: what time(2) tells
_SECOND = 1_000_000_000
_WALL = (0, 8, 11)  # CLOCK_REALTIME, _REALTIME_ALARM, _TAI: those with deadlines; linux/time.h
_TIMER_ABSTIME = 1  # linux/time.h; TFD_TIMER_ABSTIME of linux/timerfd.h is the same
_FUTEX_REALTIME = 256  # FUTEX_CLOCK_REALTIME, linux/futex.h, 2.6.28
_FUTEX_COMMAND = 127  # FUTEX_CMD_MASK
_FUTEX_LOCK_PI, _FUTEX_ABSOLUTE = 6, (9, 11, 13)  # LOCK_PI; WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2
_VALUE = 16  # offset of it_value in struct itimerspec


class TimeTable(HandlerTable):
    """Shifts the wall clock. Give it to an `ExecTable` as one of its changes.

    Arguments:
        start_ns: what the wall clock shows when the sandbox starts, in nanoseconds since 1970.

    Attributes:
        offset_ns: by how much its clock is ahead of the real one.

    """

    name = "time"
    begins = False

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self.offset_ns = 0
        self._services: Services | None = None
        self._deadlines: Deadlines | None = None

    def traps(self) -> Sequence[Trap]:
        """The calls that tell the wall clock, but for those that the changed vDSO makes, and absolute deadlines."""
        told = "the wall clock, asked past the vDSO"
        until = "an absolute time on the wall clock"
        own, some = not_one_of(2, SHIFTING_MARK), "memory"
        absolute = has_bits(1, _TIMER_ABSTIME)
        return (
            Trap("clock_gettime", self._clock_gettime, told, (one_of(0, *SHIFTED_CLOCKS), own), some),
            Trap("gettimeofday", self._gettimeofday, told, (own,), some),
            Trap("time", self._time, told, (own,), some),
            Trap("clock_nanosleep", self._sleep, until, (one_of(0, *_WALL), absolute), some),
            Trap("futex", self._futex, until, (has_bits(1, _FUTEX_REALTIME), _given(3)), some),
            Trap("futex", self._futex, until, (one_of(1, _FUTEX_LOCK_PI, mask=_FUTEX_COMMAND), _given(3)), some),
            Trap("futex_waitv", self._futexes, until, (one_of(4, 0), _given(3)), some),
            Trap("mq_timedsend", self._queue, until, (_given(4),), some),
            Trap("mq_timedreceive", self._queue, until, (_given(4),), some),
            Trap("timer_settime", self._timer, until, (absolute,), some),
            Trap("timerfd_settime", self._timerfd, until, (absolute,), some),
        )

    def attach(self, services: Services) -> None:
        """Start the clock."""
        self._services = services
        self._deadlines = Deadlines(services.loop, services.processes)
        # By the coarse clock, which is a tick behind: so that none of them is ever before the start.
        self.offset_ns = self._start_ns - time.clock_gettime_ns(_COARSE)

    async def close(self) -> None:
        """Forget the deadlines that are on their way."""
        if self._deadlines is not None:
            self._deadlines.close()

    def stubs(self) -> Mapping[str, StubOperation]:
        """Return the changes of the vDSO."""
        assert self._services is not None  # noqa: S101  # attached before the first exec
        return shifted_time(self._services.arch.vdso_stubs.ENTRIES, self.offset_ns)

    def prepare(self, _: Process | None) -> Callable[[Image], None] | None:
        """Return nothing: the vDSO is all."""
        return None

    def _clock_gettime(self, request: Request) -> Action:
        now = time.clock_gettime_ns(request.int_arg(0)) + self.offset_ns
        memory.write(request, request.args[1], _pair(*divmod(now, _SECOND)))
        return Value(0)

    def _gettimeofday(self, request: Request) -> Action:
        seconds, fraction = divmod(time.time_ns() + self.offset_ns, _SECOND)
        if request.args[0]:
            memory.write(request, request.args[0], _pair(seconds, fraction // 1000))
        if request.args[1]:
            memory.write(request, request.args[1], bytes(8))  # the kernel's time zone, which nobody sets
        return Value(0)

    def _time(self, request: Request) -> Action:
        seconds = (time.clock_gettime_ns(_COARSE) + self.offset_ns) // _SECOND
        if request.args[0]:
            memory.write(request, request.args[0], seconds.to_bytes(8, "little", signed=True))
        return Value(seconds)

    def _sleep(self, request: Request) -> None:
        self._lend(request, request.args[2])

    def _futex(self, request: Request) -> None:
        command = request.int_arg(1) & _FUTEX_COMMAND
        # FUTEX_WAIT with FUTEX_CLOCK_REALTIME measures a span.
        wall = bool(request.int_arg(1) & _FUTEX_REALTIME)
        if command == _FUTEX_LOCK_PI or (wall and command in _FUTEX_ABSOLUTE):
            self._lend(request, request.args[3])

    def _futexes(self, request: Request) -> None:
        self._lend(request, request.args[3])

    def _queue(self, request: Request) -> None:
        self._lend(request, request.args[4])

    def _timer(self, request: Request) -> None:
        if _timer_clock(request.tid, request.int_arg(0)) in _WALL:
            self._lend(request, request.args[2] + _VALUE, disarming=True)

    def _timerfd(self, request: Request) -> None:
        if _timerfd_clock(request.tid, request.int_arg(0)) in _WALL:
            self._lend(request, request.args[2] + _VALUE, disarming=True)

    def _lend(self, request: Request, address: int, *, disarming: bool = False) -> None:
        """Leave the call to the kernel, with a deadline on its clock; one of zero disarms a timer."""
        assert self._deadlines is not None  # noqa: S101  # attached before the first request
        if disarming and not any(memory.read(request, address, 16)):
            return
        self._deadlines.lend(request, address, self.offset_ns)


def _given(argument: int) -> Condition:
    return not_one_of(argument, 0, wide=True)


def _pair(seconds: int, fraction: int) -> bytes:
    return seconds.to_bytes(8, "little", signed=True) + fraction.to_bytes(8, "little")


def _timer_clock(tid: int, timer: int) -> int:
    """Return the clock of a POSIX timer, -1 when it has none of ours."""
    with suppress(OSError):
        text = contents(f"/proc/{tid}/timers")
        for found in re.finditer(rb"^ID: (\d+)\n(?:.*\n)*?ClockID: (-?\d+)$", text, re.MULTILINE):
            if int(found[1]) == timer:
                return int(found[2])
    return -1


def _timerfd_clock(tid: int, fd: int) -> int:
    """Return the clock of a timerfd, -1 for another file."""
    with suppress(OSError):
        found = re.search(rb"^clockid: (\d+)$", contents(f"/proc/{tid}/fdinfo/{fd}"), re.MULTILINE)
        if found is not None:
            return int(found[1])
    return -1
