"""What a stopped thread was doing in the kernel, and how that goes on after a restore.

Only x86_64 shows it: there the tracer sees the number of the call and its restart code. Elsewhere the kernel has
rewound the thread before the stop, and the registers alone say "again".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sandlock_arch import Architecture
from sandlock_arch.call_abi import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, RESTART_CODES, RESTING_CALLS, error_of
from sandlock_sys import procmem
from sandlock_sys.errors import SyscallError

__all__ = ["Interrupted", "examine", "time_left_ns"]

_EINTR = 4
_WORD = (1 << 64) - 1
_TIMESPEC = struct.Struct("<qq")
_ABSOLUTE = 1  # TIMER_ABSTIME, linux/time.h
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Fields of `ThreadState`, and the general registers the thread must have."""

    restart: str
    syscall: int
    left_ns: int
    general: bytes


def examine(pid: int, architecture: Architecture, general: bytes, *, deliverable: bool) -> Interrupted:
    """Return what the thread with these general registers was doing.

    Arguments:
        pid: its process, to read a time-out's remainder from.
        architecture: whose registers they are.
        general: the general register set.
        deliverable: whether a signal waits that is not blocked: then an EINTR may be that signal's, and stays.

    """
    abi, layout = architecture.abi, architecture.registers
    registers = layout.general.unpack(general)
    number = registers[layout.syscall_number] if abi.restart_source is not None else _WORD
    if number == _WORD:
        return Interrupted("", -1, 0, general)
    names = {value: name for name, value in architecture.syscalls.items()}
    error = error_of(registers[abi.return_register])
    if error == _EINTR and names.get(number) in abi.never_restarted and not deliverable:
        # Our stop ended it. With this code the kernel makes it again, unless a handler runs first: then it is EINTR.
        changed = layout.general.replace(general, {abi.return_register: -ERESTARTNOHAND & _WORD})
        return Interrupted("again", number, 0, changed)
    if error not in RESTART_CODES:
        return Interrupted("", number, 0, general)
    if error != ERESTART_RESTARTBLOCK:
        return Interrupted("again", number, 0, general)
    if names.get(number) == "restart_syscall":
        number = _number_before(pid, architecture, registers[layout.program_counter])
    if names.get(number) not in RESTING_CALLS:
        return Interrupted("lost", -1, 0, general)
    arguments = [registers[name] for name in abi.argument_registers]
    return Interrupted("time_left", number, time_left_ns(pid, names[number], arguments), general)


def time_left_ns(pid: int, name: str, arguments: list[int]) -> int:
    """Return what the kernel told the program about the rest of its sleep, 0 when it told nothing."""
    if name == "nanosleep":
        remainder = arguments[1]
    elif name == "clock_nanosleep" and not arguments[1] & _ABSOLUTE:
        remainder = arguments[3]
    else:
        return 0
    if not remainder:
        return 0
    try:
        seconds, nanoseconds = _TIMESPEC.unpack(procmem.read(pid, remainder, _TIMESPEC.size))
    except SyscallError:  # EFAULT: a pointer to nowhere, which the kernel could not write through either
        return 0
    left = int(seconds) * _SECOND + int(nanoseconds)
    return max(left, 0)


def _number_before(pid: int, architecture: Architecture, counter: int) -> int:
    """Return the call that stood here before restart_syscall(2) took its place, by the code that loads its number."""
    abi = architecture.abi
    length = len(abi.number_load) + 4 + len(abi.syscall_instruction)
    try:
        code = procmem.read(pid, counter - length, length)
    except SyscallError:
        return -1
    immediate = code[len(abi.number_load) : -len(abi.syscall_instruction)]
    if not abi.number_load or not code.startswith(abi.number_load) or not code.endswith(abi.syscall_instruction):
        return -1
    number = int.from_bytes(immediate, "little")
    return number if number in {architecture.syscalls.get(name) for name in RESTING_CALLS} else -1
