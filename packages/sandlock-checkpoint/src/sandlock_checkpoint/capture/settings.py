"""Write down what belongs to a whole process: signal actions, timers, limits, layout, and its settings."""

from __future__ import annotations

import re
import resource
import struct
from dataclasses import dataclass

from sandlock_arch.call_abi import error_of
from sandlock_checkpoint.errors import CaptureError
from sandlock_checkpoint.inject import Injector, Scratch
from sandlock_checkpoint.model import IntervalTimer, Layout, Limit, PosixTimer, SignalAction
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import Stat, Status

__all__ = ["Settings", "parse_timers", "read_actions", "read_layout", "read_limits", "read_settings", "read_timers"]

_SIGCHLD = 17
_NEVER = {9, 19}  # SIGKILL and SIGSTOP have no action
_ACTION_WITH_RESTORER = struct.Struct("<QQQQ")  # struct kernel_sigaction of x86_64
_ACTION = struct.Struct("<QQQ")  # of architectures without SA_RESTORER
_ITIMER = struct.Struct("<qqqq")  # struct itimerval: interval, value
_TIMER = struct.Struct("<qqqq")  # struct itimerspec: interval, value
_SECOND = 1_000_000_000
_GET_DUMPABLE = 3  # PR_GET_DUMPABLE, linux/prctl.h
_GET_CHILD_SUBREAPER = 37  # PR_GET_CHILD_SUBREAPER, 3.4
_GET_THP_DISABLE = 42  # PR_GET_THP_DISABLE, 3.15
_QUERY = 0xFFFFFFFF  # personality(2): tell, change nothing
_NOTIFY = {b"signal": 0, b"none": 1, b"thread": 2}
_THREAD_ID = 4  # SIGEV_THREAD_ID
_TIMER_ENTRY = re.compile(
    rb"ID: (\d+)\nsignal: (\d+)/([0-9a-fpx]+|\(null\)|0+)\nnotify: (\w+)/(pid|tid)\.(\d+)\nClockID: (-?\d+)\n"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Small facts that only the process itself can be asked for."""

    brk: int
    personality: int
    dumpable: int
    child_subreaper: bool
    thp_disable: bool


def read_settings(injector: Injector, scratch: Scratch) -> Settings:
    """Ask the process for its small facts."""
    scratch.write(bytes(8))
    injector.call("prctl", _GET_CHILD_SUBREAPER, scratch.address)
    subreaper = int.from_bytes(scratch.read(4), "little")
    thp = injector.attempt("prctl", _GET_THP_DISABLE)
    return Settings(
        brk=injector.call("brk", 0),
        personality=injector.call("personality", _QUERY),
        dumpable=injector.call("prctl", _GET_DUMPABLE),
        child_subreaper=bool(subreaper),
        thp_disable=not error_of(thp) and bool(thp),
    )


def read_actions(injector: Injector, scratch: Scratch, status: Status, *, restorer: bool) -> tuple[SignalAction, ...]:
    """Return the signal actions that are not the default.

    Only the signals that /proc names as caught or ignored are asked for, and SIGCHLD, which may have flags that count
    without a handler (SA_NOCLDWAIT).
    """
    found = []
    for signal in range(1, 65):
        known = (status.signals_caught | status.signals_ignored) >> signal - 1 & 1
        if signal in _NEVER or not (known or signal == _SIGCHLD):
            continue
        injector.call("rt_sigaction", signal, 0, scratch.address, 8)
        if restorer:
            handler, flags, address, mask = _ACTION_WITH_RESTORER.unpack(scratch.read(_ACTION_WITH_RESTORER.size))
        else:
            (handler, flags, mask), address = _ACTION.unpack(scratch.read(_ACTION.size)), 0
        if handler or flags:
            found.append(SignalAction(signal, handler, flags, address, mask))
    return tuple(found)


def read_timers(
    pid: int, injector: Injector, scratch: Scratch
) -> tuple[tuple[IntervalTimer, ...], tuple[PosixTimer, ...]]:
    """Return the armed interval timers, and all POSIX timers."""
    intervals = []
    for which in range(3):
        injector.call("getitimer", which, scratch.address)
        interval_s, interval_us, value_s, value_us = _ITIMER.unpack(scratch.read(_ITIMER.size))
        value, interval = value_s * 1_000_000 + value_us, interval_s * 1_000_000 + interval_us
        if value or interval:
            # Without a value: its signal waits, and the kernel arms it again when that is taken.
            intervals.append(IntervalTimer(which, value or interval, interval))
    try:
        with open(f"/proc/{pid}/timers", "rb") as file:
            text = file.read()
    except FileNotFoundError:  # no CONFIG_POSIX_TIMERS or no CONFIG_CHECKPOINT_RESTORE
        return tuple(intervals), ()
    timers = []
    for timer in parse_timers(text):
        injector.call("timer_gettime", timer.id, scratch.address)
        interval_s, interval_ns, value_s, value_ns = _TIMER.unpack(scratch.read(_TIMER.size))
        timers.append(
            PosixTimer(
                timer.id, timer.clock, timer.notify, timer.signal, timer.value, timer.tid,
                value_s * _SECOND + value_ns, interval_s * _SECOND + interval_ns,
            )
        )  # fmt: skip
    return tuple(intervals), tuple(timers)


def parse_timers(text: bytes) -> tuple[PosixTimer, ...]:
    """Return the timers of /proc/PID/timers (proc_pid_timers(5)) in order of their ids, without their times.

    Raises:
        ValueError: the file does not have the documented form.

    """
    found = []
    at = 0
    while at < len(text):
        match = _TIMER_ENTRY.match(text, at)
        if match is None or match[4] not in _NOTIFY:
            raise ValueError(f"/proc/PID/timers: not a timer: {text[at : at + 80]!r}")
        at = match.end()
        value = 0 if match[3] == b"(null)" else int(match[3].removeprefix(b"0x"), 16)
        thread = match[5] == b"tid"
        notify = _NOTIFY[match[4]] | (_THREAD_ID if thread else 0)
        tid = int(match[6]) if thread else 0
        found.append(PosixTimer(int(match[1]), int(match[7]), notify, int(match[2]), value, tid, 0, 0))
    return tuple(sorted(found, key=lambda timer: timer.id))


def read_limits(pid: int) -> tuple[Limit, ...]:
    """Return all resource limits."""
    infinite = (1 << 64) - 1
    found = []
    for number in range(16):  # RLIM_NLIMITS, asm-generic/resource.h
        try:
            soft, hard = resource.prlimit(pid, number)
        except OSError as error:
            raise CaptureError(pid, f"its resource limits cannot be read: {error}") from error
        found.append(Limit(number, soft & infinite, hard & infinite))
    return tuple(found)


def read_layout(pid: int, stat: Stat, brk: int) -> Layout:
    """Return where the kernel believes the parts of the program are."""
    with open(f"/proc/{pid}/auxv", "rb") as file:
        auxv = file.read()
    if not stat.startcode:
        raise SyscallError("open", 13, f"/proc/{pid}/stat hides the addresses of the process")
    return Layout(
        start_code=stat.startcode,
        end_code=stat.endcode,
        start_data=stat.start_data,
        end_data=stat.end_data,
        start_brk=stat.start_brk,
        brk=brk,
        start_stack=stat.startstack,
        arg_start=stat.arg_start,
        arg_end=stat.arg_end,
        env_start=stat.env_start,
        env_end=stat.env_end,
        auxv=auxv,
    )
