"""How a tracker's one call is made in a process whose calls a seccomp filter judges: past it, for the tracker alone.

A filter may answer a call that it does not know by killing, so nothing is tried at random. Either who supervises the
process lets exactly that call through (`Admit`), or root has the kernel suspend the filter for as long as it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

from sandlock_arch import Architecture
from sandlock_checkpoint.capture.stop import StoppedProcess
from sandlock_checkpoint.errors import InjectionError
from sandlock_checkpoint.inject import Injector, find_call
from sandlock_checkpoint.tracing import EXIT_KILL, TRACE_SYSCALLS
from sandlock_sys import ptrace
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import Status

__all__ = ["Admit", "FilteredError", "way_past"]

Admit: TypeAlias = Callable[[int], AbstractContextManager[None] | None]

_SUSPEND_SECCOMP = 1 << 21  # PTRACE_O_SUSPEND_SECCOMP, linux/ptrace.h, 4.3, CONFIG_CHECKPOINT_RESTORE


class FilteredError(Exception):
    """A seccomp filter would judge an injected call, or what it makes is within reach of somebody; says why."""


def way_past(
    stopped: StoppedProcess, status: Status, admit: Admit | None, injector: Injector, architecture: Architecture
) -> AbstractContextManager[None]:
    """Return what the call is made within, by `injector`, in the main thread of a stopped process with this status.

    Entering it raises `FilteredError` where there is no way.
    """
    return _way(stopped, admit, injector, architecture) if status.seccomp else nullcontext()


@contextmanager
def _way(
    stopped: StoppedProcess, admit: Admit | None, injector: Injector, architecture: Architecture
) -> Iterator[None]:
    admitted = admit(stopped.pid) if admit is not None else None
    if admitted is None:
        with _suspended(stopped.pid):
            yield
    else:
        with _by_the_kernels_code(stopped.pid, injector, architecture), _let_through(stopped, admitted):
            yield


@contextmanager
def _by_the_kernels_code(pid: int, injector: Injector, architecture: Architecture) -> Iterator[None]:
    """Make calls by an instruction of the vDSO alone.

    A page of a file is not the process's own: who may write the file, in another sandbox for one, would replace the
    instruction, and the thread would run code of the program's while its call is let through. No code follows that
    brings it back should this process die: it dies then.
    """
    kept = injector.entry
    try:
        injector.entry = find_call(pid, architecture).call
    except InjectionError as error:
        raise FilteredError(f"there is no code of the kernel's in it to make the call by: {error}") from error
    try:
        yield
    finally:
        injector.entry = kept


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
