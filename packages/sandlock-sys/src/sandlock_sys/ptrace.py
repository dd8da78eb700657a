"""ptrace: stop, read, change and resume another thread (ptrace(2)).

A tracee belongs to the *thread* that seized it: every call about it, `wait` included, must come from that thread,
else ESRCH. All calls but `seize`, `interrupt` and `wait` need a tracee that is stopped.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from signal import SIGTRAP
from struct import Struct

from sandlock_sys._buffers import NULL, readable, writable
from sandlock_sys._buffers import address as address_of
from sandlock_sys._call import check, restarting
from sandlock_sys._ffi import lib

__all__ = [
    "Change",
    "Continued",
    "Exited",
    "Killed",
    "RseqConfiguration",
    "Stopped",
    "SyscallInfo",
    "SyscallStop",
    "cont",
    "detach",
    "get_event_message",
    "get_regset",
    "get_rseq_configuration",
    "get_siginfo",
    "get_signal_mask",
    "get_syscall_info",
    "interrupt",
    "listen",
    "peek",
    "peek_signals",
    "poke",
    "seize",
    "set_options",
    "set_regset",
    "set_siginfo",
    "set_signal_mask",
    "single_step",
    "to_syscall",
    "wait",
]

# Requests of ptrace(2), linux/ptrace.h
_PEEKDATA = 2
_POKEDATA = 5
_CONT = 7
_SINGLESTEP = 9
_DETACH = 17
_SYSCALL = 24
_SETOPTIONS = 0x4200
_GETEVENTMSG = 0x4201
_GETSIGINFO = 0x4202
_SETSIGINFO = 0x4203
_GETREGSET = 0x4204  # 2.6.34
_SETREGSET = 0x4205  # 2.6.34
_SEIZE = 0x4206  # 3.4
_INTERRUPT = 0x4207  # 3.4
_LISTEN = 0x4208  # 3.4
_PEEKSIGINFO = 0x4209  # 3.10
_GETSIGMASK = 0x420A  # 3.11
_SETSIGMASK = 0x420B  # 3.11
_GET_SYSCALL_INFO = 0x420E  # 5.3
_GET_RSEQ_CONFIGURATION = 0x420F  # 5.13

_WALL = 0x4000_0000  # __WALL, linux/wait.h: children of every kind, threads (CLONE_THREAD) too

_SIGINFO_SIZE = 128  # siginfo_t, asm-generic/siginfo.h
_SIGMASK_SIZE = 8  # the kernel's sigset_t
_FIRST_REGSET_SIZE = 4096
_SYSCALL_INFO = Struct("=BxxxIQQ")  # the head of struct ptrace_syscall_info
_SYSCALL_INFO_SIZE = 88
_RSEQ = Struct("=QIIII")  # struct ptrace_rseq_configuration
_PEEK = Struct("=QIi")  # struct ptrace_peeksiginfo_args
_PEEK_SHARED = 1  # PTRACE_PEEKSIGINFO_SHARED
_PEEK_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Exited:
    """The thread or process ended by itself with `code`."""

    tid: int
    code: int


@dataclass(frozen=True, slots=True)
class Killed:
    """The process was ended by `signal`; `core` tells whether a core was dumped."""

    tid: int
    signal: int
    core: bool


@dataclass(frozen=True, slots=True)
class Stopped:
    """The tracee stopped.

    Attributes:
        tid: the thread.
        signal: the signal about to be delivered, or SIGTRAP | 0x80 at a system call with PTRACE_O_TRACESYSGOOD.
        event: PTRACE_EVENT_*, or 0 for the stop before a signal's delivery. With PTRACE_EVENT_STOP, a signal other
            than SIGTRAP means that the group stopped: `listen` leaves it so.

    """

    tid: int
    signal: int
    event: int

    @property
    def pending_signal(self) -> int:
        """The signal to hand to `cont` so that the tracee gets it; 0 when this stop is none of its own."""
        return 0 if self.event or self.signal == SIGTRAP | 0x80 else self.signal


@dataclass(frozen=True, slots=True)
class Continued:
    """The child went on after SIGCONT."""

    tid: int


Change = Exited | Killed | Stopped | Continued
"""What `wait` returns."""


class SyscallStop(enum.IntEnum):
    """Where a `SyscallInfo` was taken: PTRACE_SYSCALL_INFO_*, linux/ptrace.h, 5.3."""

    NONE = 0
    ENTRY = 1
    EXIT = 2
    SECCOMP = 3


@dataclass(frozen=True, slots=True)
class SyscallInfo:
    """What the stopped thread's system call is.

    Attributes:
        stop: which of the groups below is filled.
        arch: AUDIT_ARCH_* of the ABI that the call came in by.
        instruction_pointer: of the thread.
        stack_pointer: of the thread.
        nr: the system call's number (ENTRY, SECCOMP), else -1.
        args: its six arguments, unsigned 64-bit (ENTRY, SECCOMP), else ().
        value: what it returns (EXIT), -errno for an error, else 0.
        is_error: whether `value` is an error (EXIT).
        trace_data: the low 16 bits of the filter's SECCOMP_RET_TRACE (SECCOMP), else 0.

    """

    stop: SyscallStop
    arch: int
    instruction_pointer: int
    stack_pointer: int
    nr: int = -1
    args: tuple[int, ...] = ()
    value: int = 0
    is_error: bool = False
    trace_data: int = 0


@dataclass(frozen=True, slots=True)
class RseqConfiguration:
    """A thread's restartable sequence area (rseq(2)); `pointer` is 0 when it has none."""

    pointer: int
    size: int
    signature: int
    flags: int


def seize(tid: int, options: int = 0) -> None:
    """Become the tracer of a thread, which runs on; unlike PTRACE_ATTACH it gets no SIGSTOP (3.4).

    Arguments:
        tid: the thread; each thread of a process is seized by itself.
        options: PTRACE_O_* bits, set in the same step.

    Raises:
        SyscallError: EPERM when it has a tracer, is a kernel thread, or is not the caller's to trace; ESRCH.

    """
    _call("PTRACE_SEIZE", _SEIZE, tid, 0, options)


def interrupt(tid: int) -> None:
    """Ask a seized thread to stop; `wait` then reports PTRACE_EVENT_STOP."""
    _call("PTRACE_INTERRUPT", _INTERRUPT, tid)


def cont(tid: int, signal: int = 0) -> None:
    """Let the thread run, delivering `signal` (0: none)."""
    _call("PTRACE_CONT", _CONT, tid, 0, signal)


def single_step(tid: int, signal: int = 0) -> None:
    """Let the thread run one instruction, delivering `signal` first."""
    _call("PTRACE_SINGLESTEP", _SINGLESTEP, tid, 0, signal)


def to_syscall(tid: int, signal: int = 0) -> None:
    """Let the thread run to the next entry to, or exit from, a system call."""
    _call("PTRACE_SYSCALL", _SYSCALL, tid, 0, signal)


def listen(tid: int) -> None:
    """Leave a thread in its group stop while still hearing of it (3.4)."""
    _call("PTRACE_LISTEN", _LISTEN, tid)


def detach(tid: int, signal: int = 0) -> None:
    """Stop tracing a stopped thread and let it run, delivering `signal`."""
    _call("PTRACE_DETACH", _DETACH, tid, 0, signal)


def set_options(tid: int, options: int) -> None:
    """Replace the PTRACE_O_* options."""
    _call("PTRACE_SETOPTIONS", _SETOPTIONS, tid, 0, options)


def get_event_message(tid: int) -> int:
    """Return the number that came with the last event: a new child's pid, an exit status, a former tid."""
    return int.from_bytes(_filled("PTRACE_GETEVENTMSG", _GETEVENTMSG, tid, 0, 8), "little")


def get_siginfo(tid: int) -> bytes:
    """Return the siginfo_t (128 bytes) of what stopped the thread."""
    return _filled("PTRACE_GETSIGINFO", _GETSIGINFO, tid, 0, _SIGINFO_SIZE)


def set_siginfo(tid: int, siginfo: bytes) -> None:
    """Replace the siginfo_t (128 bytes) of the signal that stopped the thread, as its handler will see it."""
    if len(siginfo) != _SIGINFO_SIZE:
        raise ValueError(f"a siginfo_t has {_SIGINFO_SIZE} bytes, not {len(siginfo)}")
    _buffer("PTRACE_SETSIGINFO", _SETSIGINFO, tid, 0, bytearray(siginfo))


def get_signal_mask(tid: int) -> int:
    """Return the blocked signals, bit N-1 for signal N (3.11)."""
    return int.from_bytes(_filled("PTRACE_GETSIGMASK", _GETSIGMASK, tid, _SIGMASK_SIZE, _SIGMASK_SIZE), "little")


def set_signal_mask(tid: int, mask: int) -> None:
    """Replace the blocked signals, bit N-1 for signal N; SIGKILL and SIGSTOP stay unblocked (3.11)."""
    _buffer("PTRACE_SETSIGMASK", _SETSIGMASK, tid, _SIGMASK_SIZE, bytearray(mask.to_bytes(_SIGMASK_SIZE, "little")))


def get_regset(tid: int, kind: int) -> bytes:
    """Return a whole register set, as large as the kernel has it.

    Arguments:
        tid: the stopped thread.
        kind: NT_* (linux/elf.h), for example NT_PRSTATUS.

    Raises:
        SyscallError: EINVAL for a set that this machine does not have, ENODEV for one that the thread does not use.

    """
    size = _FIRST_REGSET_SIZE
    while True:
        memory = bytearray(size)
        result = lib.sl_ptrace_regset(_GETREGSET, tid, kind, writable(memory), size)
        filled = check("ptrace PTRACE_GETREGSET", result, f"tid {tid}, regset {kind:#x}")
        if filled < size:
            return bytes(memory[:filled])
        size *= 2  # it filled the buffer, so there may be more: AMX, SVE and SME states are larger


def set_regset(tid: int, kind: int, registers: bytes) -> None:
    """Replace a register set; a shorter one changes only its beginning.

    Raises:
        SyscallError: EINVAL for a size that is no multiple of the set's words, or a value that the machine refuses.
        ValueError: `registers` is longer than the set; its beginning has been written.

    """
    result = lib.sl_ptrace_regset(_SETREGSET, tid, kind, writable(bytearray(registers)), len(registers))
    taken = check("ptrace PTRACE_SETREGSET", result, f"tid {tid}, regset {kind:#x}")
    if taken != len(registers):
        raise ValueError(f"regset {kind:#x} of tid {tid} has {taken} bytes, not {len(registers)}")


def peek_signals(tid: int, *, shared: bool) -> tuple[bytes, ...]:
    """Return the siginfo_t (128 bytes each) of the signals that wait, in order, and leave them waiting (3.10).

    Arguments:
        tid: the stopped thread.
        shared: those sent to its whole process; else those sent to the thread.

    """
    found: list[bytes] = []
    while True:
        arguments = _PEEK.pack(len(found), _PEEK_SHARED if shared else 0, _PEEK_AT_ONCE)
        memory = bytearray(_PEEK_AT_ONCE * _SIGINFO_SIZE)
        # Safety: `arguments` lives until the call is over; the kernel reads 16 bytes of it.
        where = address_of(readable(arguments))
        result = lib.sl_ptrace_buffer(_PEEKSIGINFO, tid, where, writable(memory))
        count = check("ptrace PTRACE_PEEKSIGINFO", result, f"tid {tid}")
        found += [bytes(memory[at * _SIGINFO_SIZE : (at + 1) * _SIGINFO_SIZE]) for at in range(count)]
        if count < _PEEK_AT_ONCE:
            return tuple(found)


def get_syscall_info(tid: int) -> SyscallInfo:
    """Return what the thread's system call is, the same on every architecture (5.3)."""
    memory = bytearray(_SYSCALL_INFO_SIZE)
    _buffer("PTRACE_GET_SYSCALL_INFO", _GET_SYSCALL_INFO, tid, len(memory), memory)
    number, arch, instruction, stack = _SYSCALL_INFO.unpack_from(memory)
    stop = SyscallStop(number)
    rest = memory[_SYSCALL_INFO.size :]
    if stop is SyscallStop.EXIT:
        value = int.from_bytes(rest[:8], "little", signed=True)
        return SyscallInfo(stop, arch, instruction, stack, value=value, is_error=bool(rest[8]))
    if stop is SyscallStop.NONE:
        return SyscallInfo(stop, arch, instruction, stack)
    nr, *args = Struct("=7Q").unpack_from(rest)
    trace_data = int.from_bytes(rest[56:60], "little") if stop is SyscallStop.SECCOMP else 0
    return SyscallInfo(stop, arch, instruction, stack, nr, tuple(args), trace_data=trace_data)


def get_rseq_configuration(tid: int) -> RseqConfiguration:
    """Return the thread's restartable sequence area (5.13; EIO where the kernel has no rseq)."""
    data = _filled("PTRACE_GET_RSEQ_CONFIGURATION", _GET_RSEQ_CONFIGURATION, tid, _RSEQ.size, _RSEQ.size)
    pointer, size, signature, flags, _ = _RSEQ.unpack(data)
    return RseqConfiguration(pointer, size, signature, flags)


def peek(tid: int, address: int) -> int:
    """Return the 64-bit word at `address`; for more than a word `procmem.read` costs one call."""
    return int.from_bytes(_filled("PTRACE_PEEKDATA", _PEEKDATA, tid, address, 8), "little")


def poke(tid: int, address: int, word: int) -> None:
    """Write a 64-bit word at `address`, also to a page that the process itself may not write."""
    _call("PTRACE_POKEDATA", _POKEDATA, tid, address, word)


def wait(pid: int = -1, options: int = _WALL) -> Change | None:
    """Wait for a tracee or child to change state, and return the change.

    Arguments:
        pid: a thread, or -1 for any; more in wait4(2).
        options: W* bits; __WALL includes threads, WNOHANG returns None when nothing has happened, __WNOTHREAD leaves
            the tracees of other threads alone.

    Raises:
        SyscallError: ECHILD when there is nothing to wait for.

    """
    memory = bytearray(4)
    tid = check("wait4", restarting(lib.sl_wait4, pid, writable(memory), options), f"pid {pid}")
    if tid == 0:
        return None
    status = int.from_bytes(memory, "little")
    if status == 0xFFFF:
        return Continued(tid)
    if status & 0xFF == 0x7F:
        return Stopped(tid, status >> 8 & 0xFF, status >> 16)
    if status & 0x7F:
        return Killed(tid, status & 0x7F, bool(status & 0x80))
    return Exited(tid, status >> 8 & 0xFF)


def _call(name: str, request: int, tid: int, address: int = 0, data: int = 0) -> None:
    check(f"ptrace {name}", lib.sl_ptrace(request, tid, address, data), f"tid {tid}")


def _buffer(name: str, request: int, tid: int, address: int, memory: bytearray) -> None:
    pointer = writable(memory) if memory else NULL
    check(f"ptrace {name}", lib.sl_ptrace_buffer(request, tid, address, pointer), f"tid {tid}")


def _filled(name: str, request: int, tid: int, address: int, size: int) -> bytes:
    memory = bytearray(size)
    _buffer(name, request, tid, address, memory)
    return bytes(memory)
