"""Replacements of the riscv64 vDSO functions: arch/riscv/kernel/vdso/vdso.lds.S names the symbols.

The code uses a0, a7, t0, t1, t3 and t4 alone, a jump to it t2, which a C function may destroy anyway, and no stack.
The kernel keeps every general register but a0.
"""

from __future__ import annotations

from typing import assert_never

from sandlock_arch.errors import StubError
from sandlock_arch.riscv64 import encode
from sandlock_arch.riscv64.syscalls import SYSCALLS
from sandlock_arch.sequence import Branch, Item, Label, assemble
from sandlock_arch.stub import (
    MICROSECONDS,
    NANOSECONDS,
    SHIFTED_CLOCKS,
    SHIFTING_MARK,
    ClockGettime,
    ForceGetrandom,
    ForceSyscall,
    Gettimeofday,
    StubOperation,
    Time,
    number_for,
    split_offset,
)

__all__ = ["ENTRIES", "landing_pad", "lower"]

# There is no time(2) here. __vdso_rt_sigreturn is where signal handlers return to, and stays.
ENTRIES = {
    "clock_gettime": "__vdso_clock_gettime",
    "gettimeofday": "__vdso_gettimeofday",
    "clock_getres": "__vdso_clock_getres",
    "getcpu": "__vdso_getcpu",
    "getrandom": "__vdso_getrandom",  # 6.16
    "riscv_flush_icache": "__vdso_flush_icache",
    "riscv_hwprobe": "__vdso_riscv_hwprobe",  # 6.4
}

_ENOSYS = 38  # asm-generic/errno.h

# LPAD (Zicfilp) is AUIPC with target x0: the upper 20 bits are a label the caller may have put into t2.
_LPAD_MASK = 0xFFF
_LPAD = 0x017


def lower(operation: StubOperation) -> bytes:
    """Return position-independent code for `operation`; raise `StubError` for a call riscv64 does not have."""
    match operation:
        case ForceSyscall(name):
            items = [*_call(name), encode.ret()]
        case ForceGetrandom():
            items = _getrandom()
        case ClockGettime(offset_ns):
            items = _clock_gettime(offset_ns)
        case Gettimeofday(offset_ns):
            items = _gettimeofday(offset_ns)
        case Time():
            raise StubError("riscv64 has no time(2)")
        case _:
            assert_never(operation)
    return assemble(items)


def landing_pad(entry: bytes) -> bytes:
    """Return the LPAD the function began with, label included, or nothing."""
    pad = entry[:4]
    return pad if len(pad) == 4 and int.from_bytes(pad, "little") & _LPAD_MASK == _LPAD else b""


def _marked(name: str) -> list[Item]:
    return [encode.load_immediate("a2", SHIFTING_MARK), *_call(name)]


def _call(name: str) -> list[Item]:
    return [encode.load_immediate("a7", number_for(SYSCALLS, name)), encode.syscall()]


def _branch_if_equal(one: str, other: str, label: str) -> Branch:
    return Branch(label, lambda distance: encode.branch_if_equal(one, other, distance))


def _branch_if_not_equal(one: str, other: str, label: str) -> Branch:
    return Branch(label, lambda distance: encode.branch_if_not_equal(one, other, distance))


def _branch_if_less(one: str, other: str, label: str) -> Branch:
    return Branch(label, lambda distance: encode.branch_if_less(one, other, distance))


def _getrandom() -> list[Item]:
    # The fifth argument of the C function is in a4; NO_OPAQUE_STATE is all ones, -1.
    return [
        encode.load_immediate("t0", -1),
        _branch_if_equal("a4", "t0", "query"),
        *_call("getrandom"),
        encode.ret(),
        Label("query"),
        encode.load_immediate("a0", -_ENOSYS),
        encode.ret(),
    ]


def _clock_gettime(offset_ns: int) -> list[Item]:
    *others, last = SHIFTED_CLOCKS
    # clockid_t is an int: the kernel looks at 32 bits of the register, and so must we.
    items = [
        encode.sign_extend32("t0", "a0"),
        *_marked("clock_gettime"),
        _branch_if_not_equal("a0", "zero", "done"),
    ]
    for clock in others:
        items += [encode.load_immediate("t1", clock), _branch_if_equal("t0", "t1", "shift")]
    items += [encode.load_immediate("t1", last), _branch_if_not_equal("t0", "t1", "done"), Label("shift")]
    return items + _shift("a1", offset_ns, NANOSECONDS)


def _gettimeofday(offset_ns: int) -> list[Item]:
    return [
        encode.move("t0", "a0"),
        *_marked("gettimeofday"),
        _branch_if_not_equal("a0", "zero", "done"),
        _branch_if_equal("t0", "zero", "done"),
        *_shift("t0", offset_ns, MICROSECONDS),
    ]


def _shift(pointer: str, offset_ns: int, units_per_second: int) -> list[Item]:
    """Add the offset to the two words at `pointer`, seconds and fraction, with carry; end the function."""
    seconds, fraction = split_offset(offset_ns, units_per_second)
    return [
        encode.load("t3", pointer, 0),
        encode.load("t4", pointer, 8),
        encode.load_immediate("t1", seconds),
        encode.add("t3", "t3", "t1"),
        encode.load_immediate("t1", fraction),
        encode.add("t4", "t4", "t1"),
        encode.load_immediate("t1", units_per_second),
        _branch_if_less("t4", "t1", "store"),
        encode.subtract("t4", "t4", "t1"),
        encode.add_immediate("t3", "t3", 1),
        Label("store"),
        encode.store(pointer, 0, "t3"),
        encode.store(pointer, 8, "t4"),
        Label("done"),
        encode.ret(),
    ]
