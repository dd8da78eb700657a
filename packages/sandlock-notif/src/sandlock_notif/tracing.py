"""Ptrace beside the loop: each tracee has a thread of its own for as long as it is traced.

A tracee belongs to the thread that seized it, and waiting for it blocks. So a job seizes, waits and detaches in one
worker thread, and the loop awaits its result. One thread for several tracees could hang for ever: PTRACE_SEIZE waits
for a process that is executing, and that process waits until the tracers of its other threads have reaped them.

Safety: a thread id is the caller's own only while its request waits; each job says why it is still right, and a
tracee that has been seized keeps its id until its tracer has reaped it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import contextmanager, suppress
from enum import Enum, auto
from errno import ECHILD, EPERM, ESRCH
from typing import TYPE_CHECKING, TypeVar

from sandlock_notif.daemon_executor import DaemonExecutor, in_thread, retire
from sandlock_notif.errors import NotifError
from sandlock_sys import ptrace
from sandlock_sys.constants.ptrace import Event, Option, WaitOption
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import read_status

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

__all__ = [
    "INTERRUPTED",
    "ExecGate",
    "ExecOutcome",
    "HeldError",
    "Tracer",
    "follow_exec",
    "interrupted",
    "pass_through",
]

Result = TypeVar("Result")

INTERRUPTED: set[int] = set()
"""The threads that a tracer of this process has interrupted, and that have not stopped yet; tracers add to it."""

_WORKERS = 32  # execs and settlings that wait for their stop at once; further ones queue
_CLOSE_S = 2.0
_HELD_S = 2.0  # so long a thread of ours may take from seizing a task to interrupting it
_FREE_S = 0.01  # and so long one that has just let go may still have been there when it was tried
_EVERY = WaitOption.NOTHREAD | 0x4000_0000  # __WALL; only what this very thread traces


class HeldError(NotifError):
    """Another thread of ours has interrupted the task, which stops as soon as its call ends: let it call again."""


class ExecOutcome(Enum):
    """What became of an execve that was let through."""

    DONE = auto()
    """The new program image is there; the process runs it."""
    FAILED = auto()
    """The old image runs on: the call failed, or a signal came first and it will be made again."""
    GONE = auto()
    """The process ended."""


class Tracer:
    """Runs ptrace jobs in threads of their own, made when they are needed. Used from the loop's thread."""

    def __init__(self, workers: int = _WORKERS) -> None:
        self._workers = workers
        self._pool: DaemonExecutor | None = None
        self._closed = False

    async def run(self, job: Callable[[], Result]) -> Result:
        """Return what `job` returns; it must leave nothing traced behind.

        Cancelled, the job goes on to its end, which the death of its tracee brings at the latest.

        Raises:
            NotifError: closed.

        """
        if self._closed:
            raise NotifError("the tracer is closed")
        if self._pool is None:
            self._pool = DaemonExecutor(self._workers, "sandlock-trace")
        return await asyncio.get_running_loop().run_in_executor(self._pool, _clean, job)

    async def close(self) -> None:
        """Take no more jobs, and wait for those that run: they end with their tracees. Twice is fine."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
            # A tracee in the middle of a kernel call that nothing ends is left to its thread.
            await in_thread(pool.join, _CLOSE_S)


def _clean(job: Callable[[], Result]) -> Result:
    """Run a job; when it fails and cannot even let its tracee go, its thread ends, and the kernel kills the tracee.

    Nothing else does: a tracee belongs to its thread, and a dead one is not buried before its tracer has seen it.
    """
    try:
        return job()
    except BaseException:
        if _traces():
            retire()
        raise


def _traces() -> bool:
    try:
        while ptrace.wait(-1, _EVERY | WaitOption.NOHANG) is not None:
            pass
    except SyscallError as error:
        return error.errno != ECHILD
    return True


class ExecGate:
    """Keeps execs that are followed and a freeze apart: a task has one tracer. Used from the loop's thread."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._shut = False
        self._held: Container[int] = ()

    async def enter(self, tid: int) -> bool:
        """Wait until nobody has shut the gate; True: `leave` must follow. False: the freeze has the thread.

        Then it has been interrupted, so that the call may be answered with ERESTARTNOINTR: it stops, and calls again.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: not self._shut or tid in self._held)
            if self._shut:
                return False
            self._inside += 1
            return True

    async def leave(self) -> None:
        """Tell that an exec is followed no longer."""
        async with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    async def shut(self) -> None:
        """Let nobody in, and wait until nobody is inside. `open` must follow, also when this is cancelled."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._shut)
            self._shut = True
            await self._changed.wait_for(lambda: not self._inside)

    async def send_back(self, held: Container[int]) -> None:
        """Refuse the threads that a freeze holds, those that wait and those that come, until the gate is opened."""
        async with self._changed:
            self._held = held
            self._changed.notify_all()

    async def open(self) -> None:
        """Let in who waits."""
        async with self._changed:
            self._shut, self._held = False, ()
            self._changed.notify_all()


@contextmanager
def interrupted(tid: int) -> Iterator[None]:
    """Interrupt a task that this thread has seized, and let it be known until it has stopped, or ended."""
    _interrupt(tid)
    INTERRUPTED.add(tid)
    try:
        yield
    finally:
        INTERRUPTED.discard(tid)


def pass_through(tid: int) -> bool:
    """Stop a thread once and let it go on; return False when there is no such thread.

    A thread that has stopped so has left the system call that it was in when this was called: most calls end early and
    are made again.

    Raises:
        SyscallError: EPERM when another traces it.

    """
    try:
        ptrace.seize(tid, Option.EXITKILL)
    except SyscallError as error:
        if error.errno == ESRCH:
            return False
        raise
    try:
        with interrupted(tid):
            change = ptrace.wait(tid)
        return _release(change)
    except BaseException:
        _give_up(tid)
        raise


def follow_exec(
    tid: int, let_go: Callable[[], bool], at_exec: Callable[[int], None], *, killable: bool = True
) -> ExecOutcome:
    """Let a thread make its execve, and call `at_exec` with the process id before the new image's first instruction.

    When `at_exec` raises, the process is killed and the error is raised here: an image that could not be made ready
    does not run.

    Arguments:
        tid: a thread that waits in a notification of execve or execveat.
        let_go: answers the notification; called once, when nothing can be missed any more. False: it waits no longer,
            or never was the thread that was meant.
        at_exec: called with the new image stopped. The process has one thread then.
        killable: the thread waits with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (5.19), so an interrupt does not end the
            notification.

    Raises:
        SyscallError: the thread cannot be traced (EPERM, ESRCH). `let_go` was not called.
        HeldError: it has been interrupted by a thread of this process. `let_go` was not called.

    """
    _seize(tid, Option.TRACEEXEC | Option.EXITKILL)
    try:
        return _follow(tid, let_go, at_exec, killable=killable)
    except BaseException:
        _give_up(tid)
        raise


def _follow(tid: int, let_go: Callable[[], bool], at_exec: Callable[[int], None], *, killable: bool) -> ExecOutcome:
    meant = False
    # An execve that fails comes to a stop as well, because of the interrupt. It is no signal: execve does not look for
    # it. If it came after the answer, the thread could be in its next notification by then, and traced there.
    if killable:
        _interrupt(tid)
    try:
        meant = let_go()
    finally:
        if not killable:
            _interrupt(tid)
        try:
            # After an exec by a thread that is not the leader, the leader's id.
            change = ptrace.wait(-1, _EVERY)
        except SyscallError as error:
            if error.errno != ECHILD:
                raise
            change = None
        executed = meant and isinstance(change, ptrace.Stopped) and change.event == Event.EXEC
        if not executed:
            stopped = _release(change)
    if not executed:
        return ExecOutcome.FAILED if stopped else ExecOutcome.GONE
    assert isinstance(change, ptrace.Stopped)  # noqa: S101  # by `executed`
    try:
        at_exec(change.tid)
    except BaseException:
        # Safety: stopped by us and not reaped, so the id is still this process's.
        with suppress(ProcessLookupError):
            os.kill(change.tid, signal.SIGKILL)
        _reap()
        raise
    return ExecOutcome.DONE if _release(change) else ExecOutcome.GONE


def _seize(tid: int, options: int) -> None:
    """Seize, where a thread of ours may be about to let go: a task has one tracer."""
    begin = time.monotonic()
    while True:
        try:
            ptrace.seize(tid, options)
        except SyscallError as error:
            if tid in INTERRUPTED:
                raise HeldError from error
            late = time.monotonic() - begin
            if error.errno != EPERM or late > (_HELD_S if _is_ours(tid) else _FREE_S):
                raise
            time.sleep(0.001)
        else:
            return


def _is_ours(tid: int) -> bool:
    """Whether a thread of this process traces it."""
    try:
        tracer = read_status(tid).tracer_pid
    except (OSError, ValueError):
        return False
    return bool(tracer) and os.path.exists(f"/proc/self/task/{tracer}")


def _interrupt(tid: int) -> None:
    try:
        ptrace.interrupt(tid)
    except SyscallError as error:
        if error.errno not in (ESRCH, EPERM):  # gone, or renamed by an exec that is stopped already
            raise


def _release(change: ptrace.Change | None) -> bool:
    """Detach from a tracee that stopped; return False when it ended instead."""
    if not isinstance(change, ptrace.Stopped):
        return False
    try:
        ptrace.detach(change.tid, change.pending_signal)
    except SyscallError as error:
        if error.errno != ESRCH:
            raise
        _reap()  # killed while stopped; until we look it would stay a zombie, and an exec of its process would wait
        return False
    return True


def _give_up(tid: int) -> None:
    """Kill a task that this thread could not let go: its tracer lives on, and it would stay stopped for ever.

    Safety: who is traced by this thread has not been reaped, so the id is its own.
    """
    with suppress(OSError, ValueError):
        if read_status(tid).tracer_pid == threading.get_native_id():
            os.kill(tid, signal.SIGKILL)
            _reap()


def _reap() -> None:
    while True:
        try:
            change = ptrace.wait(-1, _EVERY)
        except SyscallError as error:
            if error.errno == ECHILD:
                return
            raise
        if isinstance(change, ptrace.Stopped):  # a stop on the way to its death
            with suppress(SyscallError):
                ptrace.detach(change.tid)
