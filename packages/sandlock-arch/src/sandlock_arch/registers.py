"""Register sets as ptrace hands them out: layouts are data, packing is driven by them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from sandlock_arch.errors import LayoutError

__all__ = ["NT_PRFPREG", "NT_PRSTATUS", "RegisterLayout", "RegisterSet", "Regset"]

# Note types of PTRACE_GETREGSET that every architecture has; linux/elf.h
NT_PRSTATUS = 1
NT_PRFPREG = 2

_WORD = 8
_LIMIT = 1 << 64


@dataclass(frozen=True, slots=True)
class RegisterSet:
    """A register set of 64-bit little-endian words; `names` is the order in memory."""

    names: tuple[str, ...]

    @property
    def size(self) -> int:
        """Return the length in bytes."""
        return len(self.names) * _WORD

    def offset(self, name: str) -> int:
        """Return where register `name` starts, in bytes; raise `LayoutError` if there is none."""
        try:
            return self.names.index(name) * _WORD
        except ValueError:
            raise LayoutError(f"no register {name!r} in this set (there is: {', '.join(self.names)})") from None

    def unpack(self, data: bytes) -> dict[str, int]:
        """Return every register by name, unsigned; raise `LayoutError` unless `data` has exactly our size."""
        if len(data) != self.size:
            raise LayoutError(f"a set of {len(self.names)} registers has {self.size} bytes, not {len(data)}")
        return dict(zip(self.names, struct.unpack(f"<{len(self.names)}Q", data), strict=True))

    def pack(self, values: Mapping[str, int]) -> bytes:
        """Return the bytes for `values`, which name every register once; the opposite of `unpack`.

        Raise `LayoutError` for a missing or unknown name, or a value outside 0 .. 2**64-1.
        """
        if values.keys() != set(self.names):
            wrong = sorted(values.keys() ^ set(self.names))
            raise LayoutError(f"registers missing or unknown: {', '.join(wrong)}")
        return struct.pack(f"<{len(self.names)}Q", *(_word(name, values[name]) for name in self.names))

    def replace(self, data: bytes, values: Mapping[str, int]) -> bytes:
        """Return `data` with the named registers changed and all others as they were; raise `LayoutError`."""
        known = self.unpack(data)
        for name, value in values.items():
            self.offset(name)
            known[name] = value
        return self.pack(known)


@dataclass(frozen=True, slots=True)
class Regset:
    """One register set of PTRACE_GETREGSET besides the general one.

    Attributes:
        name: short, ours.
        note: the NT_* type of linux/elf.h.
        size: bytes, or None where the processor or the thread decides.
        since: the first kernel that has it.
        covers: note types whose whole content this set has too; save and restore this one instead.
        writable: PTRACE_SETREGSET takes it.
        words: names of its 64-bit words, where it consists of some.

    """

    name: str
    note: int
    size: int | None
    since: str
    covers: tuple[int, ...] = ()
    writable: bool = True
    words: RegisterSet | None = None


@dataclass(frozen=True, slots=True)
class RegisterLayout:
    """Where a thread's registers are found.

    Attributes:
        general: the set of NT_PRSTATUS.
        program_counter, stack_pointer: names in the general set.
        thread_pointer: name of the TLS register, in the general set or in the words of `thread_pointer_note`.
        thread_pointer_note: the note type of the set that holds it.
        syscall_number: the general register a tracer reads the running call's number from at a system call stop.
        syscall_number_note: the note type through which a tracer changes the number of the running call (on riscv64
            and x86_64 it writes `syscall_number` itself).
        regsets: the other sets, in the order in which they are best saved and restored; a kernel or processor may
            lack any of them (EINVAL or ENODEV).

    """

    general: RegisterSet
    program_counter: str
    stack_pointer: str
    thread_pointer: str
    thread_pointer_note: int
    syscall_number: str
    syscall_number_note: int
    regsets: tuple[Regset, ...]


def _word(name: str, value: int) -> int:
    if not 0 <= value < _LIMIT:
        raise LayoutError(f"register {name} cannot hold {value:#x}: it has 64 bits and no sign")
    return value
