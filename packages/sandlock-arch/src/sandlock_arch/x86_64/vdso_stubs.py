"""Replacements of the x86_64 vDSO functions: arch/x86/entry/vdso/vdso.lds.S names the symbols.

The code uses registers that a C function may destroy anyway, and of the stack no more than its own red zone; rdi and
rsi survive the system call by the kernel's own promise.
"""

from __future__ import annotations

from typing import assert_never

from sandlock_arch.sequence import Branch, Item, Label, assemble
from sandlock_arch.stub import (
    MICROSECONDS,
    NANOSECONDS,
    NO_OPAQUE_STATE,
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
from sandlock_arch.x86_64 import encode
from sandlock_arch.x86_64.syscalls import SYSCALLS

__all__ = ["ENTRIES", "landing_pad", "lower"]

# __vdso_sgx_enter_enclave is no system call, and stays.
ENTRIES = {
    "clock_gettime": "__vdso_clock_gettime",
    "gettimeofday": "__vdso_gettimeofday",
    "time": "__vdso_time",
    "clock_getres": "__vdso_clock_getres",
    "getcpu": "__vdso_getcpu",
    "getrandom": "__vdso_getrandom",  # 6.11
}

_ENOSYS = 38  # asm-generic/errno.h
_COARSE = 5  # CLOCK_REALTIME_COARSE, linux/time.h: what time(2) tells
_BELOW = 64  # bytes below the stack pointer, within the red zone of 128


def lower(operation: StubOperation) -> bytes:
    """Return position-independent code for `operation`; raise `StubError` for a call x86_64 does not have."""
    match operation:
        case ForceSyscall(name):
            items = [*_call(name), encode.ret()]
        case ForceGetrandom():
            items = _getrandom()
        case ClockGettime(offset_ns):
            items = _clock_gettime(offset_ns)
        case Gettimeofday(offset_ns):
            items = _gettimeofday(offset_ns)
        case Time(offset_ns):
            items = _time(offset_ns)
        case _:
            assert_never(operation)
    return assemble(items)


def landing_pad(entry: bytes) -> bytes:
    """Return endbr64 if the function began with it."""
    pad = encode.endbr64()
    return pad if entry.startswith(pad) else b""


def _marked(name: str) -> list[Item]:
    return [encode.load_immediate("rdx", SHIFTING_MARK), *_call(name)]


def _call(name: str) -> list[Item]:
    return [encode.load_immediate("rax", number_for(SYSCALLS, name)), encode.syscall()]


def _branch_if(condition: int, label: str) -> Branch:
    return Branch(label, lambda distance: encode.branch_if(condition, distance))


def _getrandom() -> list[Item]:
    # The fifth argument of the C function is in r8.
    return [
        encode.compare_immediate("r8", NO_OPAQUE_STATE - (1 << 64)),
        _branch_if(encode.EQUAL, "query"),
        *_call("getrandom"),
        encode.ret(),
        Label("query"),
        encode.load_immediate("rax", -_ENOSYS),
        encode.ret(),
    ]


def _clock_gettime(offset_ns: int) -> list[Item]:
    *others, last = SHIFTED_CLOCKS
    items = [*_marked("clock_gettime"), encode.test("rax", "rax"), _branch_if(encode.NOT_EQUAL, "done")]
    for clock in others:
        items += [encode.compare_immediate32("rdi", clock), _branch_if(encode.EQUAL, "shift")]
    items += [encode.compare_immediate32("rdi", last), _branch_if(encode.NOT_EQUAL, "done"), Label("shift")]
    return items + _shift("rsi", offset_ns, NANOSECONDS)


def _gettimeofday(offset_ns: int) -> list[Item]:
    return [
        *_marked("gettimeofday"),
        encode.test("rax", "rax"),
        _branch_if(encode.NOT_EQUAL, "done"),
        encode.test("rdi", "rdi"),
        _branch_if(encode.EQUAL, "done"),
        *_shift("rdi", offset_ns, MICROSECONDS),
    ]


def _shift(pointer: str, offset_ns: int, units_per_second: int) -> list[Item]:
    """Add the offset to the two words at `pointer`, seconds and fraction, with carry; end the function."""
    seconds, fraction = split_offset(offset_ns, units_per_second)
    return [
        encode.load_immediate("rcx", seconds),
        encode.load("r11", pointer, 0),
        encode.add("rcx", "r11"),
        encode.load("rdx", pointer, 8),
        encode.add_immediate("rdx", fraction),
        encode.compare_immediate("rdx", units_per_second),
        _branch_if(encode.LESS, "store"),
        encode.add_immediate("rdx", -units_per_second),
        encode.add_immediate("rcx", 1),
        Label("store"),
        encode.store(pointer, 0, "rcx"),
        encode.store(pointer, 8, "rdx"),
        Label("done"),
        encode.ret(),
    ]


def _time(offset_ns: int) -> list[Item]:
    # The timespec lies in the red zone, which is this function's own: it calls none, and signals leave it alone.
    seconds, fraction = split_offset(offset_ns, NANOSECONDS)
    return [
        encode.load_immediate("r8", 0),
        encode.add("r8", "rdi"),
        encode.load_immediate("rdi", _COARSE),
        encode.load_immediate("rsi", -_BELOW),
        encode.add("rsi", "rsp"),
        *_marked("clock_gettime"),
        encode.load("rax", "rsi", 0),
        encode.load_immediate("rcx", seconds),
        encode.add("rax", "rcx"),
        encode.load("rdx", "rsi", 8),
        encode.add_immediate("rdx", fraction),
        encode.compare_immediate("rdx", NANOSECONDS),
        _branch_if(encode.LESS, "whole"),
        encode.add_immediate("rax", 1),
        Label("whole"),
        encode.test("r8", "r8"),
        _branch_if(encode.EQUAL, "done"),
        encode.store("r8", 0, "rax"),
        Label("done"),
        encode.ret(),
    ]
