"""What a replaced vDSO function does, said without a processor; each architecture's `vdso_stubs` lowers it to code.

Entries carry the name of the system call they stand for ("clock_gettime"), not of the ELF symbol.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sandlock_arch.errors import StubError

__all__ = [
    "MICROSECONDS",
    "NANOSECONDS",
    "NO_OPAQUE_STATE",
    "SHIFTED_CLOCKS",
    "SHIFTING_MARK",
    "ClockGettime",
    "ForceGetrandom",
    "ForceSyscall",
    "Gettimeofday",
    "StubOperation",
    "Time",
    "forced",
    "number_for",
    "shifted_time",
    "split_offset",
]

# Fractions of a timespec and a timeval.
NANOSECONDS = 1_000_000_000  # per second
MICROSECONDS = 1_000_000  # per second

# The clocks that follow the wall: CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI; linux/time.h. MONOTONIC, BOOTTIME
# and the CPU clocks measure spans; a shift would break waits whose deadline the kernel compares with its own clock.
SHIFTED_CLOCKS = (0, 5, 11)

# The opaque_len with which a libc asks __vdso_getrandom (6.11) how to allocate its states; linux/random.h.
NO_OPAQUE_STATE = (1 << 64) - 1

# What a stub that shifts the time puts into the third argument, which clock_gettime, gettimeofday and time do not have:
# a filter that traps these calls lets the stub's own pass, whose answer is going to be shifted.
SHIFTING_MARK = 0x5EA1_C10C


@dataclass(frozen=True, slots=True)
class ForceSyscall:
    """Make system call `name` with the function's own arguments, and return what it returns."""

    name: str


@dataclass(frozen=True, slots=True)
class ForceGetrandom:
    """Make getrandom(2), but answer ENOSYS to the query for opaque states.

    The vDSO function has two more arguments than the system call. Forced plainly, the query (NULL, 0, 0, &params, ~0)
    would succeed without filling params, and libc would size its allocations by what was on its stack; after ENOSYS it
    uses the system call.
    """


@dataclass(frozen=True, slots=True)
class ClockGettime:
    """Make clock_gettime(2); if it succeeded, add `offset_ns` nanoseconds to a clock of `SHIFTED_CLOCKS`."""

    offset_ns: int


@dataclass(frozen=True, slots=True)
class Gettimeofday:
    """Make gettimeofday(2); if it succeeded and the timeval is not NULL, add `offset_ns`, rounded down to whole us."""

    offset_ns: int


@dataclass(frozen=True, slots=True)
class Time:
    """Return the whole seconds of the coarse wall clock with `offset_ns` added, and store them where the pointer says.

    It takes clock_gettime(2): time(2) has lost the fraction that decides which second the sum lies in.
    """

    offset_ns: int


StubOperation = ForceSyscall | ForceGetrandom | ClockGettime | Gettimeofday | Time


def forced(entries: Iterable[str]) -> dict[str, StubOperation]:
    """Return for each entry the operation that makes its system call, so that seccomp sees it."""
    return {entry: ForceGetrandom() if entry == "getrandom" else ForceSyscall(entry) for entry in entries}


def shifted_time(entries: Iterable[str], offset_ns: int) -> dict[str, StubOperation]:
    """Return the operations that shift the wall clock by `offset_ns` for those of `entries` that tell it."""
    operations: dict[str, StubOperation] = {
        "clock_gettime": ClockGettime(offset_ns),
        "gettimeofday": Gettimeofday(offset_ns),
        "time": Time(offset_ns),
    }
    return {entry: operations[entry] for entry in entries if entry in operations}


def number_for(syscalls: Mapping[str, int], name: str) -> int:
    """Return the number of system call `name`; raise `StubError` if the architecture has none."""
    try:
        return syscalls[name]
    except KeyError:
        raise StubError(f"this architecture has no system call {name!r}") from None


def split_offset(offset_ns: int, units_per_second: int) -> tuple[int, int]:
    """Split an offset into seconds and 0 <= fraction < `units_per_second`, both rounded down.

    Raise `StubError` if the seconds do not fit the 64-bit tv_sec.
    """
    units = offset_ns * units_per_second // NANOSECONDS
    seconds, fraction = divmod(units, units_per_second)
    if not -(1 << 63) <= seconds < 1 << 63:
        raise StubError(f"an offset of {offset_ns} ns does not fit the 64-bit seconds of a timespec")
    return seconds, fraction
