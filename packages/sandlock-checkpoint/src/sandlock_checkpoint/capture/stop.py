"""Stop every thread of a process, and let every one of them go again whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from errno import ENOENT, EPERM, ESRCH
from functools import partial

from sandlock_arch import Architecture
from sandlock_checkpoint.errors import CaptureError, InjectionError
from sandlock_checkpoint.inject import Entry, Injector, Scratch, find_entry
from sandlock_checkpoint.terms import Leave
from sandlock_checkpoint.tracing import (
    TRACE_SYSCALLS,
    TraceeGoneError,
    TraceeStuckError,
    wait_change,
    wait_event_stop,
)
from sandlock_sys import ptrace
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import list_tasks, read_maps, read_stat, read_status

__all__ = ["StoppedProcess", "requeue", "stop_process"]

_NAP_S = 0.0005
_WALL = 0x4000_0000  # __WALL, linux/wait.h
_BURIAL_S = 5.0  # a killed thread ends at once, unless the kernel is busy with it


@dataclass
class StoppedProcess:
    """A process all of whose threads are stopped.

    Attributes:
        pid: process id, as the caller sees it.
        tids: its threads, the main thread first, then in increasing order.
        entry: where calls are made from in it.
        calls: of each thread, the system call that its stop interrupted, where that is known.
        doomed: it has what it must not have, and is killed instead of being let go.
        interrupted: threads that have been told to stop, and have not yet; others may look at it.
        group_signal: the signal that had stopped the process before (SIGSTOP, SIGTSTP, ...), 0 for none.

    """

    pid: int
    tids: list[int] = field(default_factory=list)
    entry: Entry = field(default=Entry(0))
    interrupted: set[int] = field(default_factory=set)
    group_signal: int = 0
    calls: dict[int, int] = field(default_factory=dict)
    doomed: bool = False

    def injector(self, architecture: Architecture, tid: int | None = None) -> Injector:
        """Return an injector for thread `tid`, the main thread by default."""
        tid = self.pid if tid is None else tid
        return Injector(tid, architecture, self.entry, interrupted=self.calls.get(tid, -1))

    def release(self, leave: Leave = Leave.RUNNING) -> None:
        """Detach from every thread, which runs on, stops or ends as `leave` says; never raises for one that is gone.

        Raises:
            CaptureError: the kernel does not let one go; the others are let go all the same.

        """
        tids, self.tids = self.tids, []
        if not tids:
            return
        if leave is Leave.KILLED or self.doomed:
            _signal(self.pid, signal.SIGKILL)
        elif leave is Leave.STOPPED:
            # Sent while all are still held: it acts before any of them runs an instruction.
            _signal(self.pid, signal.SIGSTOP)
        kept: list[SyscallError] = []
        left = [tid for tid in reversed(tids) if not self._let_go(tid, tids, kept)]
        deadline = time.monotonic() + _BURIAL_S
        while left and time.monotonic() < deadline:
            time.sleep(_NAP_S)
            left = [tid for tid in left if not self._let_go(tid, left, kept)]
        if kept:
            reason = f"it cannot be let go: {kept[0]}; it runs on when the thread that holds it has ended"
            raise CaptureError(self.pid, reason) from kept[0]

    def _let_go(self, tid: int, left: list[int], kept: list[SyscallError]) -> bool:
        """As `_freed`; a thread that cannot be detached from is done with, and told of in `kept`."""
        try:
            return self._freed(tid, left)
        except SyscallError as error:
            kept.append(error)
            return True

    def _freed(self, tid: int, left: list[int]) -> bool:
        """Detach from a thread; False while it can be neither let go nor buried.

        One that has not stopped yet does so soon, and would stand still for ever if it were forgotten: it waits in
        execve(2) for the others to be buried, or in a call for an answer.
        """
        try:
            ptrace.detach(tid)
        except SyscallError as error:
            if error.errno != ESRCH:
                raise
            try:
                status = read_status(self.pid, tid)
            except SyscallError:
                status = None
            if status is not None and status.state not in {"Z", "X"}:
                return not status.tracer_pid  # nobody's any more: it has come out of execve(2) under another number
            if tid == self.pid and len(left) > 1:
                return False  # the main thread is buried behind all others: waiting for it first would be for ever
            self._bury(tid)
        self.interrupted.discard(tid)
        return True

    def _bury(self, tid: int) -> None:
        """Wait for a thread that ended while it was ours: until then nobody else hears of it.

        Our own child's main thread is left to whoever waits for the child, who would miss its status.
        """
        with contextlib.suppress(SyscallError):
            if tid == self.pid and read_stat(tid).ppid == os.getpid():
                return
        with contextlib.suppress(TraceeGoneError, TraceeStuckError):
            wait_change(tid, _BURIAL_S)

    def reap(self, awaited: int) -> None:
        """Bury threads that have ended while another is waited for, which waits for that itself in execve(2)."""
        for tid in self.tids[:]:
            if tid not in {self.pid, awaited} and _has_ended(tid):
                self._bury(tid)
                self.tids.remove(tid)
                self.interrupted.discard(tid)


def _has_ended(tid: int) -> bool:
    """Whether a thread of ours has ended, without taking what it tells from whoever waits for it."""
    try:
        news = os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:  # it has another number now, which its own wait will tell
        return False
    # A traced thread's stops are told whether they were asked for or not.
    return news is not None and news.si_code in {os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED}


def stop_process(
    pid: int, architecture: Architecture, timeout_s: float, interrupted: set[int] | None = None
) -> StoppedProcess:
    """Stop every thread of the process; threads that are made meanwhile are found until none is new.

    Raises:
        CaptureError: it may not be traced, is traced already, is gone, or a thread does not stop; nothing stays
        stopped.

    """
    stopped = StoppedProcess(pid)
    if interrupted is not None:
        stopped.interrupted = interrupted
    try:
        _stop_threads(stopped, architecture, timeout_s)
    except BaseException as error:
        stopped.release()
        if isinstance(error, TraceeGoneError | TraceeStuckError | SyscallError | InjectionError):
            raise CaptureError(pid, str(error)) from error
        raise
    return stopped


def _stop_threads(stopped: StoppedProcess, architecture: Architecture, timeout_s: float) -> None:
    pid = stopped.pid
    seen: set[int] = set()
    held: dict[int, list[tuple[int, bytes]]] = {}
    while new := [tid for tid in list_tasks(pid) if tid not in seen]:
        seized = []
        for tid in new:
            seen.add(tid)
            if _seize(pid, tid):
                stopped.tids.append(tid)
                seized.append(tid)
                ptrace.interrupt(tid)
                stopped.interrupted.add(tid)
        for tid in seized:
            if tid not in stopped.tids:
                continue  # buried while another was waited for
            try:
                change, held[tid] = wait_event_stop(tid, timeout_s, partial(stopped.reap, tid))
            except TraceeGoneError as error:
                if error.change is None and tid != pid:
                    raise CaptureError(pid, "it is about to run another program (execve)") from error
                stopped.interrupted.discard(tid)
                stopped.tids.remove(tid)  # a thread that was ending; the process goes on without it
                continue
            stopped.interrupted.discard(tid)
            if change.signal != signal.SIGTRAP:
                stopped.group_signal = change.signal
    if pid not in stopped.tids:
        raise CaptureError(pid, "its main thread has ended" if stopped.tids else "it has ended")
    stopped.tids.sort(key=lambda tid: (tid != pid, tid))
    stopped.entry = find_entry(pid, architecture, read_maps(pid))
    for tid, signals in held.items():
        if signals:
            requeue(stopped.injector(architecture, tid), pid, signals)


def _seize(pid: int, tid: int) -> bool:
    """Become the tracer of a thread; False when it has ended meanwhile."""
    try:
        ptrace.seize(tid, TRACE_SYSCALLS)
    except SyscallError as error:
        if error.errno == ESRCH:
            return False
        if error.errno == EPERM:
            if tid != pid and _ended(pid, tid):  # the answer for one that is past its end, and not yet buried
                return False
            raise CaptureError(pid, _refusal(pid, tid)) from error
        raise
    return True


def _ended(pid: int, tid: int) -> bool:
    try:
        return read_status(pid, tid).state in {"Z", "X"}
    except SyscallError as error:
        if error.errno in {ENOENT, ESRCH}:
            return True
        raise


def _refusal(pid: int, tid: int) -> str:
    with contextlib.suppress(SyscallError):
        status = read_status(pid, tid)
        if status.state in {"Z", "X"}:
            return f"its thread {tid} has ended and not been waited for"
        if status.tracer_pid:
            return f"process {status.tracer_pid} traces its thread {tid} already"
    return (
        f"thread {tid} may not be traced: it belongs to another user, is not dumpable, or the host forbids it "
        "(kernel.yama.ptrace_scope)"
    )


def requeue(injector: Injector, pid: int, signals: list[tuple[int, bytes]]) -> None:
    """Send signals that a tracer has held back to the thread again, with the siginfo_t they had.

    The thread sends them to itself, since only to itself may a process say who the sender was; they wait behind the
    mask that the injector sets, and are delivered when it lets go.
    """
    with injector, Scratch(injector, pid, os.sysconf("SC_PAGE_SIZE")) as scratch:
        own_pid, own_tid = injector.call("getpid"), injector.call("gettid")
        for number, info in signals:
            injector.call("rt_tgsigqueueinfo", own_pid, own_tid, number, scratch.write(info))


def _signal(pid: int, number: int) -> None:
    # Safety: the process is traced by this thread, and not waited for: its number cannot have been given to another.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
