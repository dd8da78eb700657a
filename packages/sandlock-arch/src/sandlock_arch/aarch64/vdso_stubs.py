"""Replacements of the aarch64 vDSO functions: arch/arm64/kernel/vdso/vdso.lds.S names the symbols.

The code uses x0 and x8 to x12 alone, which a C function may destroy anyway, and no stack. The kernel keeps every
general register but x0.
"""

from __future__ import annotations

from typing import assert_never

from sandlock_arch.aarch64 import encode
from sandlock_arch.aarch64.syscalls import SYSCALLS
from sandlock_arch.errors import StubError
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

# There is no time(2) here. __kernel_rt_sigreturn is where signal handlers return to, and stays.
ENTRIES = {
    "clock_gettime": "__kernel_clock_gettime",
    "gettimeofday": "__kernel_gettimeofday",
    "clock_getres": "__kernel_clock_getres",
    "getrandom": "__kernel_getrandom",  # 6.12
}

_ENOSYS = 38  # asm-generic/errno.h

# With CONFIG_ARM64_BTI_KERNEL the vDSO is mapped PROT_BTI: an indirect call must land on one of these.
_LANDING_PADS = (
    b"\x5f\x24\x03\xd5",  # bti c
    b"\xdf\x24\x03\xd5",  # bti jc
    b"\x3f\x23\x03\xd5",  # paciasp
    b"\x7f\x23\x03\xd5",  # pacibsp
)


def lower(operation: StubOperation) -> bytes:
    """Return position-independent code for `operation`; raise `StubError` for a call aarch64 does not have."""
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
            raise StubError("aarch64 has no time(2)")
        case _:
            assert_never(operation)
    return assemble(items)


def landing_pad(entry: bytes) -> bytes:
    """Return BTI c if the function began with anything an indirect call may land on."""
    return encode.bti_c() if entry.startswith(_LANDING_PADS) else b""


def _marked(name: str) -> list[Item]:
    return [encode.load_immediate("x2", SHIFTING_MARK), *_call(name)]


def _call(name: str) -> list[Item]:
    return [encode.load_immediate("x8", number_for(SYSCALLS, name)), encode.syscall()]


def _branch_if(condition: int, label: str) -> Branch:
    return Branch(label, lambda distance: encode.branch_if(condition, distance))


def _branch_if_zero(register: str, label: str) -> Branch:
    return Branch(label, lambda distance: encode.branch_if_zero(register, distance))


def _branch_if_not_zero(register: str, label: str) -> Branch:
    return Branch(label, lambda distance: encode.branch_if_not_zero(register, distance))


def _getrandom() -> list[Item]:
    # The fifth argument of the C function is in x4; NO_OPAQUE_STATE is all ones.
    return [
        encode.move_not("x9", "x4"),
        _branch_if_zero("x9", "query"),
        *_call("getrandom"),
        encode.ret(),
        Label("query"),
        encode.load_immediate("x0", -_ENOSYS),
        encode.ret(),
    ]


def _clock_gettime(offset_ns: int) -> list[Item]:
    *others, last = SHIFTED_CLOCKS
    items = [encode.move("x9", "x0"), *_marked("clock_gettime"), _branch_if_not_zero("x0", "done")]
    for clock in others:
        items += [encode.compare_immediate32("x9", clock), _branch_if(encode.EQUAL, "shift")]
    items += [encode.compare_immediate32("x9", last), _branch_if(encode.NOT_EQUAL, "done"), Label("shift")]
    return items + _shift("x1", offset_ns, NANOSECONDS)


def _gettimeofday(offset_ns: int) -> list[Item]:
    return [
        encode.move("x9", "x0"),
        *_marked("gettimeofday"),
        _branch_if_not_zero("x0", "done"),
        _branch_if_zero("x9", "done"),
        *_shift("x9", offset_ns, MICROSECONDS),
    ]


def _shift(pointer: str, offset_ns: int, units_per_second: int) -> list[Item]:
    """Add the offset to the two words at `pointer`, seconds and fraction, with carry; end the function."""
    seconds, fraction = split_offset(offset_ns, units_per_second)
    return [
        encode.load_pair("x10", "x11", pointer),
        encode.load_immediate("x12", seconds),
        encode.add("x10", "x10", "x12"),
        encode.load_immediate("x12", fraction),
        encode.add("x11", "x11", "x12"),
        encode.load_immediate("x12", units_per_second),
        encode.compare("x11", "x12"),
        _branch_if(encode.LESS, "store"),
        encode.subtract("x11", "x11", "x12"),
        encode.increment("x10", 1),
        Label("store"),
        encode.store_pair("x10", "x11", pointer),
        Label("done"),
        encode.ret(),
    ]
