"""Stop threads under ptrace and wait for them with a limit: what capture and restore do with a tracee alike.

A tracee belongs to the thread that seized it, so all of this is called from one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from errno import ESRCH
from signal import SIGTRAP

from sandlock_sys import ptrace
from sandlock_sys.errors import SyscallError

__all__ = [
    "EVENT_STOP",
    "EXIT_KILL",
    "SYSCALL_STOP",
    "TRACE_SYSCALLS",
    "TraceeGoneError",
    "TraceeStuckError",
    "wait_change",
    "wait_event_stop",
]

EVENT_STOP = 128  # PTRACE_EVENT_STOP, linux/ptrace.h, 3.1
TRACE_SYSCALLS = 1  # PTRACE_O_TRACESYSGOOD, 2.4.6
EXIT_KILL = 1 << 20  # PTRACE_O_EXITKILL, 3.8
SYSCALL_STOP = SIGTRAP | 0x80  # what a stop at a system call reports with PTRACE_O_TRACESYSGOOD

_WALL = 0x4000_0000  # __WALL, linux/wait.h
_NOHANG = 1  # WNOHANG
_SPINS = 400  # about half a millisecond; a running thread stops within microseconds
_NAP_S = 0.0002


class TraceeGoneError(Exception):
    """The thread ended; `change` says how, None when its end was somebody else's to see."""

    def __init__(self, tid: int, change: ptrace.Exited | ptrace.Killed | None) -> None:
        super().__init__(f"thread {tid} ended: {change}")
        self.tid = tid
        self.change = change


class TraceeStuckError(Exception):
    """The thread did not stop in time: the kernel holds it uninterruptibly, or it waits for a child made by vfork."""

    def __init__(self, tid: int, timeout_s: float) -> None:
        super().__init__(f"thread {tid} did not stop within {timeout_s:g} s")
        self.tid = tid


def wait_change(tid: int, timeout_s: float, meanwhile: Callable[[], object] | None = None) -> ptrace.Stopped:
    """Return the next stop of a tracee; `meanwhile` is called now and then before it comes.

    Raises:
        TraceeGoneError: it ended instead.
        TraceeStuckError: nothing happened for `timeout_s` seconds.

    """
    deadline = time.monotonic() + timeout_s
    spins = 0
    while True:
        try:
            change = ptrace.wait(tid, _WALL | _NOHANG)
        except SyscallError as error:
            if error.errno in {10, ESRCH}:  # ECHILD: not a tracee any more
                raise TraceeGoneError(tid, None) from error
            raise
        if isinstance(change, ptrace.Stopped):
            return change
        if isinstance(change, ptrace.Exited | ptrace.Killed):
            raise TraceeGoneError(tid, change)
        spins += 1
        if spins < _SPINS:
            os.sched_yield()
            continue
        if time.monotonic() > deadline:
            raise TraceeStuckError(tid, timeout_s)
        if meanwhile is not None:
            meanwhile()
        time.sleep(_NAP_S)


def wait_event_stop(
    tid: int, timeout_s: float, meanwhile: Callable[[], object] | None = None
) -> tuple[ptrace.Stopped, list[tuple[int, bytes]]]:
    """Wait until an interrupted tracee stops of the interrupt; return that stop and the signals that came first.

    A signal on its way reaches the tracer before the interrupt does. It is held back here, with its siginfo_t, and the
    caller gives it back; the thread is not run with it, because a handler would change what is captured.
    """
    held: list[tuple[int, bytes]] = []
    while True:
        change = wait_change(tid, timeout_s, meanwhile)
        if change.event == EVENT_STOP:
            return change, held
        if change.pending_signal:
            held.append((change.pending_signal, ptrace.get_siginfo(tid)))
        ptrace.cont(tid)
