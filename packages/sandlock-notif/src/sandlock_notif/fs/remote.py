"""System calls that a child makes itself, on our word: what no other process can do for it.

A working directory and a program image are the child's own. Where the path that it named means another place than the
kernel would find, the child is stopped as it leaves its call, makes other calls in its place (fchdir on an fd that it
was given, say), and goes on with their result as if it were that of its own.

Safety: the thread is seized while its notification waits, so it is the caller's. Every signal is blocked meanwhile, and
all registers are put back. When this process dies, the child is killed with it (PTRACE_O_EXITKILL).
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from errno import ECHILD, EPERM, ESRCH
from typing import TYPE_CHECKING

from sandlock_arch.call_abi import error_of
from sandlock_notif.errors import NotifError
from sandlock_sys import procmem, ptrace
from sandlock_sys.constants.ptrace import Event, Option, WaitOption
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_arch import Architecture

__all__ = ["ExecutedError", "Remote", "make_calls"]

_PRSTATUS = 1  # NT_PRSTATUS, linux/elf.h
_EVERY = WaitOption.NOTHREAD | 0x4000_0000  # __WALL
_ALL = (1 << 64) - 1
_SYSCALL_STOP = 5 | 0x80  # SIGTRAP, with PTRACE_O_TRACESYSGOOD


class ExecutedError(NotifError):
    """The call was an execve, and the new image is there: nothing of the old one is left to go on with."""


class Remote:
    """A stopped thread that makes calls; only within `make_calls`."""

    def __init__(self, arch: Architecture, tid: int) -> None:
        self._arch = arch
        self.tid = tid
        self._saved = ptrace.get_regset(tid, _PRSTATUS)
        self._mask = ptrace.get_signal_mask(tid)
        ptrace.set_signal_mask(tid, _ALL)

    def call(self, name: str, *arguments: int) -> int:
        """Let the thread make a call; return its value, or a negated errno.

        Raises:
            ExecutedError: it was an execve that succeeded.
            SyscallError: ESRCH, the thread was killed.

        """
        abi, layout = self._arch.abi, self._arch.registers
        words = (*arguments, *([0] * (6 - len(arguments))))
        values = dict(zip(abi.argument_registers, (word & _ALL for word in words), strict=True))
        values[abi.number_register] = self._arch.syscalls[name]
        counter = layout.general.unpack(self._saved)[layout.program_counter]
        values[layout.program_counter] = counter - len(abi.syscall_instruction)
        if abi.restart_source is not None:
            values[abi.restart_source] = _ALL  # no call: the kernel must not rewind
        ptrace.set_regset(self.tid, _PRSTATUS, layout.general.replace(self._saved, values))
        self._until_syscall_stop()
        self._until_syscall_stop()
        result = layout.general.unpack(ptrace.get_regset(self.tid, _PRSTATUS))[abi.return_register]
        error = error_of(result)
        return -error if error else result

    def write(self, address: int, data: bytes) -> None:
        """Write into the thread's memory."""
        procmem.write(self.tid, address, data)

    def finish(self, result: int) -> None:
        """Put everything back, with `result` as what the thread's own call returns, and let it go."""
        abi, layout = self._arch.abi, self._arch.registers
        values = {abi.return_register: result & _ALL}
        if abi.restart_source is not None:
            values[abi.restart_source] = _ALL
        ptrace.set_regset(self.tid, _PRSTATUS, layout.general.replace(self._saved, values))
        self.release()

    def release(self) -> None:
        """Give the signals back and let go."""
        ptrace.set_signal_mask(self.tid, self._mask)
        ptrace.detach(self.tid)

    def _until_syscall_stop(self) -> None:
        ptrace.to_syscall(self.tid)
        while True:
            change = ptrace.wait(-1, _EVERY)
            if not isinstance(change, ptrace.Stopped):
                raise SyscallError("ptrace", ESRCH, f"tid {self.tid} was killed")
            if change.event == Event.EXEC:
                self.tid = change.tid
                raise ExecutedError
            if change.signal == _SYSCALL_STOP:
                return
            ptrace.to_syscall(self.tid)  # a group stop, or SIGSTOP: it comes again when we are done


def make_calls(
    arch: Architecture,
    tid: int,
    answer: Callable[[], bool],
    calls: Callable[[Remote], int],
    at_exec: Callable[[int], None] | None = None,
) -> None:
    """Let a thread that waits in a notification make other calls, and return what they came to.

    To be run in a thread of its own (`Tracer.run`): a tracee belongs to the thread that seized it.

    Arguments:
        arch: of the child.
        tid: the calling thread.
        answer: answers the notification, with anything: False when the thread no longer waits.
        calls: makes them, and returns the value, or the negated errno, that the thread's own call shall return.
        at_exec: called with the process id before the first instruction of a new image. The process is killed when it
            raises, and the error is raised here.

    Raises:
        SyscallError: the thread cannot be traced, or is gone. Nothing was made of the call.
        ExecutedError: the thread runs another image now; it is stopped no more.

    """
    ptrace.seize(tid, Option.TRACESYSGOOD | Option.TRACEEXEC | Option.EXITKILL)
    ptrace.interrupt(tid)
    meant = answer()
    change = ptrace.wait(-1, _EVERY)
    if not isinstance(change, ptrace.Stopped):
        raise SyscallError("ptrace", ESRCH, f"tid {tid} is gone")
    if not meant:
        ptrace.detach(change.tid, change.pending_signal)
        raise SyscallError("ptrace", ESRCH, f"tid {tid} no longer waits")
    remote = Remote(arch, tid)
    try:
        result = calls(remote)
    except ExecutedError:
        if at_exec is not None:
            _at_exec(remote.tid, at_exec)
        remote.release()
        raise
    except SyscallError as error:
        if error.errno in (ESRCH, ECHILD):
            raise
        result = -(error.errno or EPERM)
    remote.finish(result)


def _at_exec(pid: int, look: Callable[[int], None]) -> None:
    try:
        look(pid)
    except BaseException:
        # Safety: stopped by us and not reaped, so the id is still this process's.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(SyscallError):
            while isinstance(ptrace.wait(-1, _EVERY), ptrace.Stopped):
                ptrace.detach(pid)
        raise
