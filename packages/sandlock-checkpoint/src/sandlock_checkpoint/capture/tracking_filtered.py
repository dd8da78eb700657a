"""How a tracker's one call is made in a process whose calls a seccomp filter judges: past it, for the tracker alone.

A filter may answer a call that it does not know by killing, so nothing is tried at random. Either who supervises the
process lets exactly that call through (`Admit`), or root has the kernel suspend the filter for as long as it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

from sandlock_checkpoint.capture.stop import StoppedProcess
from sandlock_checkpoint.tracing import EXIT_KILL, TRACE_SYSCALLS
from sandlock_sys import ptrace
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import Status

__all__ = ["Admit", "FilteredError", "way_past"]

Admit: TypeAlias = Callable[[int], AbstractContextManager[None] | None]

_SUSPEND_SECCOMP = 1 << 21  # PTRACE_O_SUSPEND_SECCOMP, linux/ptrace.h, 4.3, CONFIG_CHECKPOINT_RESTORE


class FilteredError(Exception):
    """A seccomp filter would judge an injected call, or what it makes is within reach of somebody; says why."""


def way_past(stopped: StoppedProcess, status: Status, admit: Admit | None) -> AbstractContextManager[None]:
    """Return what the call is made within, in the main thread of a stopped process with this status.

    Entering it raises `FilteredError` where there is no way.
    """
    return _way(stopped, admit) if status.seccomp else nullcontext()


@contextmanager
def _way(stopped: StoppedProcess, admit: Admit | None) -> Iterator[None]:
    admitted = admit(stopped.pid) if admit is not None else None
    with _suspended(stopped.pid) if admitted is None else _let_through(stopped, admitted):
        yield


@contextmanager
def _suspended(tid: int) -> Iterator[None]:
    """Have no filter judge. It takes CAP_SYS_ADMIN; the kernel ends it by itself when the tracer lets go, or dies."""
    try:
        ptrace.set_options(tid, TRACE_SYSCALLS | _SUSPEND_SECCOMP)
    except SyscallError as error:
        raise FilteredError(
            "its seccomp filter may not let it make a userfaultfd: only root can suspend that, or its sandbox is "
            "launched as trackable, and within no other filter"
        ) from error
    try:
        yield
    finally:
        ptrace.set_options(tid, TRACE_SYSCALLS)


@contextmanager
def _let_through(stopped: StoppedProcess, admitted: AbstractContextManager[None]) -> Iterator[None]:
    """Have the call let through, by a process that dies rather than run on with what it has made.

    It would be left with it if this process died meanwhile, or gave the call up.
    """
    ptrace.set_options(stopped.pid, TRACE_SYSCALLS | EXIT_KILL)
    stopped.doomed = True
    try:
        with admitted:
            yield
    except SyscallError:  # the kernel's word: there is none, or it is closed
        stopped.doomed = False
        raise
    else:
        stopped.doomed = False
    finally:
        if not stopped.doomed:
            ptrace.set_options(stopped.pid, TRACE_SYSCALLS)
