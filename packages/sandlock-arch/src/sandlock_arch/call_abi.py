"""How Linux and C pass values in registers, as data; each architecture's `abi` module fills it in."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ERESTARTNOHAND",
    "ERESTARTNOINTR",
    "ERESTARTSYS",
    "ERESTART_RESTARTBLOCK",
    "MAX_ERRNO",
    "RESTART_CODES",
    "RESTING_CALLS",
    "CallAbi",
    "error_of",
]

# A system call that failed returns -errno; -4095..-1 are the failures, every other value is a result.
MAX_ERRNO = 4095  # linux/err.h

# Codes a tracer may see, negated, in the return register of an interrupted call; a program never does. linux/errno.h
ERESTARTSYS = 512  # restart, unless a handler without SA_RESTART runs: then EINTR
ERESTARTNOINTR = 513  # restart always
ERESTARTNOHAND = 514  # restart if no handler ran, else EINTR
ERESTART_RESTARTBLOCK = 516  # restart through restart_syscall(2): the kernel holds what is left of the time-out
RESTART_CODES = frozenset({ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK})

# The calls that leave such a block behind (set_restart_fn in the kernel): each only waits.
RESTING_CALLS = ("nanosleep", "clock_nanosleep", "futex", "poll")


@dataclass(frozen=True, slots=True)
class CallAbi:
    """Registers and instructions of a system call, and what a C function may count on. Registers are names.

    Attributes:
        number_register: holds the call number before the instruction.
        argument_registers: the six arguments of a system call, in order.
        return_register: holds the result, or -errno.
        clobbered_registers: what the kernel destroys besides the return register.
        syscall_instruction: the bytes that enter the kernel; after them the program counter has moved by their length.
        trap_instruction: the bytes that stop a traced process with SIGTRAP.
        trap_advances: by how many bytes the program counter has passed the trap when the tracer looks.
        function_arguments: integer arguments of a C function, in order.
        callee_saved: general registers a C function must leave as they were, the stack pointer aside.
        stack_alignment: bytes; of the stack pointer where a C function is called.
        red_zone: bytes below the stack pointer that belong to the running function.
        restart_register: what must hold its old value again before an interrupted call is repeated.
        restart_source: the general register the tracer finds that old value in, or None: see `rewinds_before_stop`.
        rewinds_before_stop: the kernel has already put back program counter and `restart_register` when it reports a
            signal or group stop out of an interrupted call (aarch64 and riscv64 do so before get_signal(), x86_64 after
            it, so there the tracer sees the restart code).
        instruction_alignment: bytes; every instruction starts at a multiple of it.
        signal_restorer: struct kernel_sigaction has a member sa_restorer (arch headers that define SA_RESTORER).
        packed_epoll_event: struct epoll_event has no padding between its 32-bit and its 64-bit member (EPOLL_PACKED).
        clobbered_regsets: NT_* types of the register sets, other than the general one, that a system call destroys.
        never_restarted: names of the calls that the kernel ends with EINTR itself when a stop interrupts them, so that
            the program sees it (signal(7)); where the tracer finds the call's number in `restart_source`, it can have
            them restarted as if they were ERESTARTNOHAND. Empty where it cannot tell.
        number_load: the bytes of the instruction that a libc loads a call's number with, right before
            `syscall_instruction`, up to its 32-bit immediate: tells which call it was after restart_syscall(2) took its
            place. b"" where the number register keeps the number anyway.

    """

    number_register: str
    argument_registers: tuple[str, str, str, str, str, str]
    return_register: str
    clobbered_registers: tuple[str, ...]
    syscall_instruction: bytes
    trap_instruction: bytes
    trap_advances: int
    function_arguments: tuple[str, ...]
    callee_saved: tuple[str, ...]
    stack_alignment: int
    red_zone: int
    restart_register: str
    restart_source: str | None
    rewinds_before_stop: bool
    instruction_alignment: int
    signal_restorer: bool
    packed_epoll_event: bool
    clobbered_regsets: tuple[int, ...] = ()
    never_restarted: frozenset[str] = frozenset()
    number_load: bytes = b""


def error_of(result: int) -> int:
    """Return the errno in `result`, the 64-bit return register signed or not, or 0 if the call succeeded."""
    signed = result - (1 << 64) if result >= 1 << 63 else result
    return -signed if -MAX_ERRNO <= signed < 0 else 0
