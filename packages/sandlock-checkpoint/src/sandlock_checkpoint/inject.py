"""Run system calls in a stopped thread, and leave it as it was.

What the thread may be doing when it is stopped, and why none of it is disturbed:

* *Its own code, or the vDSO or vsyscall page.* No code is written. The call is made by an
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
* *The tracer's own death.* The kernel then lets the thread run on with the registers it has. While ours are in place,
  its stack holds a signal frame with its own, and the injected call returns into rt_sigreturn(2), so that it goes on
  from where it was (`sandlock_arch.rescue`; where code for that is found in the process). The frame lies below the red
  zone, where a signal's would; what was there is put back, for small stacks have something else below. The order of
  steps leaves no moment at which that does not hold.
* *A seccomp filter* judges our calls as if they were the program's; one that it refuses is an error, and whatever it
  does otherwise (a supervisor that answers, a kill) happens to the process.
"""

from __future__ import annotations

from contextlib import suppress
from errno import EIO
from types import TracebackType
from typing import NamedTuple, Self

from sandlock_arch import Architecture
from sandlock_arch.call_abi import error_of
from sandlock_arch.rescue import Frame
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
from sandlock_sys.proc import Mapping, read_maps

__all__ = ["Entry", "Injector", "Scratch", "find_call", "find_entry", "sequence_of"]

_PRSTATUS = 1  # NT_PRSTATUS
_ALL_BLOCKED = (1 << 64) - 1
_NO_CALL = (1 << 64) - 1
_TIMEOUT_S = 10.0
_ANONYMOUS = 0x20  # MAP_ANONYMOUS
_PRIVATE = 0x02  # MAP_PRIVATE
_READ_WRITE = 3  # PROT_READ | PROT_WRITE
_BIRTHS = {1, 2, 3}  # PTRACE_EVENT_FORK, VFORK, CLONE
_SEARCHED = 1 << 22  # bytes of a mapping
_SEQUENCE = 8  # offset of rseq_cs in struct rseq, linux/rseq.h, 4.18


class Entry(NamedTuple):
    """Where calls are made from.

    Attributes:
        call: address of an instruction that enters the kernel.
        signal_return: address of code that calls rt_sigreturn, 0 when `call` is not followed by a return, or there is
            none: then a thread does not survive the death of its tracer while calls are injected.

    """

    call: int
    signal_return: int = 0


def find_entry(pid: int, architecture: Architecture, mappings: tuple[Mapping, ...]) -> Entry:
    """Return where to make calls from, in executable memory of the process.

    Any place where the bytes of the instruction stand will do, also inside another instruction, since the processor is
    sent right there. The vDSO has one in every process; the other two pieces of code are a libc's.

    Raises:
        InjectionError: no executable memory holds an instruction that enters the kernel.

    """
    rescue = architecture.rescue
    wanted: dict[str, tuple[bytes, ...]] = {"call": (architecture.abi.syscall_instruction,)}
    if rescue is not None:
        wanted |= {"returning": rescue.CALL_AND_RETURN, "signal_return": rescue.SIGNAL_RETURN}
    found: dict[str, int] = {}
    executable = [mapping for mapping in mappings if mapping.executable and mapping.name != b"[vsyscall]"]
    for mapping in sorted(executable, key=_promise):
        try:
            data = procmem.read(pid, mapping.start, min(mapping.size, _SEARCHED))
        except SyscallError:
            continue  # pages beyond the end of a file cannot be read; another mapping will have one
        for name, patterns in wanted.items():
            if name not in found:
                at = _first(data, patterns, architecture.abi.instruction_alignment)
                if at >= 0:
                    found[name] = mapping.start + at
        if len(found) == len(wanted):
            break
    if "returning" in found and "signal_return" in found:
        return Entry(found["returning"], found["signal_return"])
    if "call" not in found:
        raise InjectionError(pid, "any system call", "no executable memory holds an instruction that enters the kernel")
    return Entry(found["call"])


def find_call(pid: int, architecture: Architecture) -> Entry:
    """Return an instruction of the vDSO to make calls from in a process that is not to outlive its tracer.

    Raises:
        InjectionError: the process has no vDSO, or that has no such instruction.

    """
    kernel = tuple(mapping for mapping in read_maps(pid) if mapping.name == b"[vdso]")
    return Entry(find_entry(pid, architecture, kernel).call)


def _promise(mapping: Mapping) -> int:
    """Order mappings by how likely they have what is searched: the vDSO, then C libraries."""
    name = mapping.name.rpartition(b"/")[2]
    return 0 if name == b"[vdso]" else 1 if name.startswith((b"libc.", b"libc-", b"ld-musl")) else 2


def _first(data: bytes, patterns: tuple[bytes, ...], step: int) -> int:
    places = []
    for pattern in patterns:
        at = data.find(pattern)
        while at >= 0 and at % step:
            at = data.find(pattern, at + 1)
        if at >= 0:
            places.append(at)
    return min(places, default=-1)


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

    def __init__(
        self,
        tid: int,
        architecture: Architecture,
        entry: Entry,
        timeout_s: float = _TIMEOUT_S,
        *,
        interrupted: int = -1,
    ) -> None:
        self.tid = tid
        self._interrupted = interrupted  # number of the call that the thread was in, where that is known
        self.held: list[tuple[int, bytes]] = []
        self.entry = entry.call
        self._signal_return = entry.signal_return
        self._frame: Frame | None = None
        self._below = b""  # what was where the frame is
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
        self._lay_frame()
        # Only now: from here on the frame's mask would be put back, whatever becomes of us.
        ptrace.set_signal_mask(self.tid, _ALL_BLOCKED)

    def _lay_frame(self) -> None:
        """Put the frame on the thread's stack, and the thread before the call that goes back by it."""
        rescue = self._architecture.rescue
        if rescue is None or not self._signal_return:
            return
        sets = {}
        for note in rescue.NOTES:
            with suppress(SyscallError):  # as in `begin`
                sets[note] = ptrace.get_regset(self.tid, note)
        frame = rescue.build(self._general, sets, self._mask, self._signal_return, self._interrupted)
        if frame is None:
            return
        try:
            self._below = procmem.read(self.tid, frame.address, len(frame.data))
            procmem.write(self.tid, frame.address, frame.data)
        except SyscallError:  # no room below the stack pointer: a stack that a signal could not be delivered on either
            return
        self._frame = frame
        self._go_back()

    def _go_back(self) -> None:
        """Put the thread where it would go back by its frame, if it ran now."""
        if self._frame is None:
            return
        general = self._architecture.registers.general
        ptrace.set_regset(self.tid, _PRSTATUS, general.replace(self._general, self._frame.going_back))

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
        if self._sequence is not None:
            procmem.write(self.tid, *self._sequence)
        self._go_back()
        ptrace.set_signal_mask(self.tid, self._mask)
        ptrace.set_regset(self.tid, _PRSTATUS, self._general)
        if self._frame is not None:
            procmem.write(self.tid, self._frame.address, self._below)

    def _point(self, number: int, arguments: tuple[int, ...]) -> None:
        abi, layout = self._architecture.abi, self._architecture.registers
        values = dict.fromkeys(abi.argument_registers, 0)
        values |= {name: value & _ALL_BLOCKED for name, value in zip(abi.argument_registers, arguments, strict=False)}
        if layout.syscall_number != abi.number_register:
            values[layout.syscall_number] = _NO_CALL
        values[abi.number_register] = number
        values[layout.program_counter] = self.entry
        if self._frame is not None:
            values |= self._frame.calling
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
