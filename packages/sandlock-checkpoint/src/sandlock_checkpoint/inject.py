"""Run system calls in a stopped thread, and leave it as it was.

What the thread may be doing when it is stopped, and why none of it is disturbed:

* *Its own code, or the vDSO or vsyscall page.* Nothing of the thread's memory is written. The call is made by an
  instruction that enters the kernel and already stands in its memory (the vDSO has some); the program counter is
  pointed at it, and put back afterwards with all general registers, and with the register sets that a call destroys.
* *A blocked system call.* The kernel has ended it with a restart code in the return register, which the tracer sees
  (x86_64) or which it has already turned into "again" (aarch64, riscv64). The number of the call is set to "none"
  while ours run, so that the kernel does not rewind our program counter; then both are put back at a stop before
  signal delivery, the very kind of stop they were taken at, where the kernel still acts on the code.
* *A restart block* (the rest of a time-out, held by the kernel for restart_syscall). Only the calls that sleep touch
  it; those that are injected into a process that is to run on never do.
* *Signals.* All are blocked while our calls run, and the mask is put back. When a call had replaced the mask for its
  own time (sigsuspend, ppoll), ptrace shows and replaces the one of before, which is what the call restores anyway.
  SIGSTOP cannot be blocked: one that comes meanwhile is held back and given back at the end.
* *A restartable sequence* (rseq(2)). The kernel finds the program counter outside the sequence while ours runs and
  takes the sequence for left; its pointer is put back, so that it is restarted as after any other preemption.
* *A seccomp filter* judges our calls as if they were the program's; one that it refuses is an error, and whatever it
  does otherwise (a supervisor that answers, a kill) happens to the process.
"""

from __future__ import annotations

from errno import EIO
from types import TracebackType
from typing import Self

from sandlock_arch import Architecture
from sandlock_arch.call_abi import error_of
from sandlock_checkpoint.errors import InjectionError
from sandlock_checkpoint.tracing import (
    SYSCALL_STOP,
    TraceeGoneError,
    TraceeStuckError,
    wait_change,
    wait_event_stop,
)
from sandlock_sys import procmem, ptrace
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import Mapping

__all__ = ["Injector", "Scratch", "find_entry", "sequence_of"]

_PRSTATUS = 1  # NT_PRSTATUS
_ALL_BLOCKED = (1 << 64) - 1
_NO_CALL = (1 << 64) - 1
_TIMEOUT_S = 10.0
_ANONYMOUS = 0x20  # MAP_ANONYMOUS
_PRIVATE = 0x02  # MAP_PRIVATE
_READ_WRITE = 3  # PROT_READ | PROT_WRITE
_BIRTHS = {1, 2, 3}  # PTRACE_EVENT_FORK, VFORK, CLONE
_SEQUENCE = 8  # offset of rseq_cs in struct rseq, linux/rseq.h, 4.18


def find_entry(pid: int, architecture: Architecture, mappings: tuple[Mapping, ...]) -> int:
    """Return the address of an instruction that enters the kernel, in executable memory of the process.

    The vDSO is searched first: it is short and has one wherever it falls back to a real call. Any place where the
    bytes of the instruction stand will do, also inside another instruction, since the processor is sent right there.

    Raises:
        InjectionError: there is none.

    """
    wanted = architecture.abi.syscall_instruction
    step = architecture.abi.instruction_alignment
    executable = [mapping for mapping in mappings if mapping.executable and mapping.name != b"[vsyscall]"]
    for mapping in sorted(executable, key=lambda mapping: mapping.name != b"[vdso]"):
        try:
            data = procmem.read(pid, mapping.start, min(mapping.size, 1 << 22))
        except SyscallError:
            continue  # pages beyond the end of a file cannot be read; another mapping will have one
        at = data.find(wanted)
        while at >= 0 and at % step:
            at = data.find(wanted, at + 1)
        if at >= 0:
            return mapping.start + at
    raise InjectionError(pid, "any system call", "no executable memory holds an instruction that enters the kernel")


def sequence_of(tid: int) -> tuple[int, bytes] | None:
    """Return where a stopped thread keeps the pointer to its restartable sequence, and the pointer; None for none."""
    try:
        rseq = ptrace.get_rseq_configuration(tid)
    except SyscallError as error:
        if error.errno == EIO:  # a kernel without rseq, or before 5.13
            return None
        raise
    if not rseq.pointer:
        return None
    try:
        value = procmem.read(tid, rseq.pointer + _SEQUENCE, 8)
    except SyscallError:  # the program has unmapped its area; the kernel kills it for that, we need not
        return None
    return (rseq.pointer + _SEQUENCE, value) if any(value) else None


class Injector:
    """Runs system calls in one stopped thread; leaving the `with` block puts everything back.

    The thread must be in an event stop (`tracing.wait_event_stop`), and be so again afterwards.

    Attributes:
        tid: the thread.
        held: signals that came meanwhile and could not be blocked, as (number, siginfo_t): whoever detaches from the
            thread gives them back.
        entry: address of the instruction that enters the kernel; to be changed when it moves.
        born: threads and processes that calls have made (PTRACE_O_TRACECLONE and its like), in order.

    """

    def __init__(self, tid: int, architecture: Architecture, entry: int, timeout_s: float = _TIMEOUT_S) -> None:
        self.tid = tid
        self.held: list[tuple[int, bytes]] = []
        self.entry = entry
        self.born: list[int] = []
        self._architecture = architecture
        self._timeout_s = timeout_s
        self._general = b""
        self._others: list[tuple[int, bytes]] = []
        self._mask = 0
        self._sequence: tuple[int, bytes] | None = None
        self._began = False  # the thread stands at the end of a call of ours, not at its event stop

    def __enter__(self) -> Self:
        self.begin()
        return self

    def begin(self) -> None:
        """Note what will be put back, and block all signals; a restore, which puts nothing back, stops here."""
        self._general = ptrace.get_regset(self.tid, _PRSTATUS)
        for note in self._architecture.abi.clobbered_regsets:
            try:
                self._others.append((note, ptrace.get_regset(self.tid, note)))
            except SyscallError:  # EINVAL, ENODEV, ENODATA: this machine or thread has none to lose
                continue
        self._sequence = sequence_of(self.tid)
        self._mask = ptrace.get_signal_mask(self.tid)
        ptrace.set_signal_mask(self.tid, _ALL_BLOCKED)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.settle()
            self.put_back()
        except (TraceeGoneError, TraceeStuckError, SyscallError) as failure:
            if error is None:
                raise InjectionError(self.tid, "coming back", str(failure)) from failure

    def call(self, name: str, *arguments: int) -> int:
        """Run system call `name` and return its result.

        Raises:
            SyscallError: the call failed; its errno.
            InjectionError: it did not come to an end.

        """
        result = self.attempt(name, *arguments)
        errno = error_of(result)
        if errno:
            raise SyscallError(name, errno, f"in thread {self.tid}")
        return result

    def attempt(self, name: str, *arguments: int) -> int:
        """Run system call `name` and return what it returned: a value, or -errno as an unsigned 64-bit word."""
        self._enter(name, arguments)
        try:
            self._to_stop(name)
        except (TraceeGoneError, TraceeStuckError) as error:
            raise InjectionError(self.tid, name, str(error)) from error
        return self._result()

    def attempt_blocking(self, name: str, *arguments: int) -> int:
        """Run a call that may wait, and interrupt it if it does; return as `attempt`, or the restart code, negated.

        Afterwards the kernel holds for the thread what it needs to go on waiting (a restart block).
        """
        self._enter(name, arguments)
        try:
            ptrace.to_syscall(self.tid)
            ptrace.interrupt(self.tid)
            while True:
                change = wait_change(self.tid, self._timeout_s)
                if change.signal == SYSCALL_STOP and not change.event:
                    return self._result()
                ptrace.to_syscall(self.tid)
        except (TraceeGoneError, TraceeStuckError) as error:
            raise InjectionError(self.tid, name, str(error)) from error

    def _enter(self, name: str, arguments: tuple[int, ...]) -> None:
        number = self._architecture.syscalls.get(name)
        if number is None:
            raise InjectionError(self.tid, name, f"{self._architecture.name} has no such system call")
        self._point(number, arguments)
        try:
            self._to_stop(name)
        except (TraceeGoneError, TraceeStuckError) as error:
            raise InjectionError(self.tid, name, str(error)) from error
        self._began = True

    def _result(self) -> int:
        general = self._architecture.registers.general
        return general.unpack(ptrace.get_regset(self.tid, _PRSTATUS))[self._architecture.abi.return_register]

    def leave_waiting(self, counter: int, name: str, *arguments: int) -> None:
        """Let the thread make a call by the code at `counter`, and go on there; no call can be injected after that."""
        self.settle()
        self.entry = counter
        self._point(self._architecture.syscalls[name], arguments)
        ptrace.set_signal_mask(self.tid, 0)
        ptrace.detach(self.tid)

    def settle(self) -> None:
        """Bring the thread from the end of a call back to an event stop, without an instruction of its own."""
        if not self._began:
            return
        ptrace.interrupt(self.tid)
        ptrace.cont(self.tid)
        _, held = wait_event_stop(self.tid, self._timeout_s)
        self.held += held
        self._began = False

    def put_back(self) -> None:
        """Put registers and signal mask back; the thread is at an event stop."""
        for note, data in self._others:
            ptrace.set_regset(self.tid, note, data)
        ptrace.set_regset(self.tid, _PRSTATUS, self._general)
        ptrace.set_signal_mask(self.tid, self._mask)
        if self._sequence is not None:
            procmem.write(self.tid, *self._sequence)

    def _point(self, number: int, arguments: tuple[int, ...]) -> None:
        abi, layout = self._architecture.abi, self._architecture.registers
        values = dict.fromkeys(abi.argument_registers, 0)
        values |= {name: value & _ALL_BLOCKED for name, value in zip(abi.argument_registers, arguments, strict=False)}
        if layout.syscall_number != abi.number_register:
            values[layout.syscall_number] = _NO_CALL
        values[abi.number_register] = number
        values[layout.program_counter] = self.entry
        ptrace.set_regset(self.tid, _PRSTATUS, layout.general.replace(self._general, values))

    def _to_stop(self, name: str) -> None:
        """Run to the next entry to, or exit from, a system call."""
        signal = 0
        while True:
            ptrace.to_syscall(self.tid, signal)
            change = wait_change(self.tid, self._timeout_s)
            if change.signal == SYSCALL_STOP and not change.event:
                return
            if change.event in _BIRTHS:
                self.born.append(ptrace.get_event_message(self.tid))
            if change.event:
                continue  # a group stop, or an interrupt that came late
            if change.signal in {4, 5, 7, 11}:  # SIGILL, SIGTRAP, SIGBUS, SIGSEGV: our instruction is not there
                raise InjectionError(self.tid, name, f"signal {change.signal} instead of a system call")
            self.held.append((change.signal, ptrace.get_siginfo(self.tid)))


class Scratch:
    """Memory in the process for what injected calls read and write; it is there only inside the `with` block."""

    def __init__(self, injector: Injector, pid: int, size: int) -> None:
        self._injector = injector
        self._pid = pid
        self.size = size
        self.address = 0

    def __enter__(self) -> Self:
        self.address = self._injector.call("mmap", 0, self.size, _READ_WRITE, _PRIVATE | _ANONYMOUS, _ALL_BLOCKED, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.address:
            return  # whoever set it so knows that the memory is gone
        try:
            self._injector.call("munmap", self.address, self.size)
        except (InjectionError, SyscallError):
            if error is None:
                raise

    def write(self, data: bytes, offset: int = 0) -> int:
        """Write `data` at `offset`; return its address in the process."""
        if offset + len(data) > self.size:
            raise ValueError(f"{len(data)} bytes at {offset} are more than the scratch memory's {self.size}")
        procmem.write(self._pid, self.address + offset, data)
        return self.address + offset

    def read(self, length: int, offset: int = 0) -> bytes:
        """Return `length` bytes at `offset`."""
        return procmem.read(self._pid, self.address + offset, length)
