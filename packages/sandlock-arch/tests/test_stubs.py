"""Every vDSO replacement runs on an emulated processor of its architecture, and is judged by what it leaves behind."""

from __future__ import annotations

import pytest
from arch_emulator import DATA, EFAULT, EINVAL, ENOSYS, Machine
from hypothesis import given, settings
from hypothesis import strategies as st

import sandlock_arch
from sandlock_arch import Architecture
from sandlock_arch.errors import StubError
from sandlock_arch.stub import (
    NO_OPAQUE_STATE,
    SHIFTING_MARK,
    ClockGettime,
    ForceGetrandom,
    ForceSyscall,
    Gettimeofday,
    Time,
    forced,
    shifted_time,
)

SECOND = 1_000_000_000  # ns
NOWHERE = 0x7000_0000  # not mapped
SHIFTING = (0, 5, 11)
STEADY = (1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 16, 21, -6, 0x7FFF_FFFF)

# Seconds up to the edge of what 64 bits hold beside the emulated now of 1.7e9 seconds.
OFFSETS = st.one_of(
    st.integers(-(1 << 40), 1 << 40),
    st.integers(-(10**18), 10**18),
    st.integers(-((1 << 62) * SECOND), (1 << 62) * SECOND),
    st.sampled_from([0, 1, -1, SECOND, -SECOND, SECOND - 1, 1 - SECOND, (1 << 32) * SECOND, -((1 << 35) * SECOND) - 1]),
)
NOWS = st.tuples(st.integers(0, 1 << 34), st.sampled_from([0, 1, 999, 1000, 500_000_000, 999_999_000, 999_999_999]))
MACHINES = {name: Machine(sandlock_arch.get(name)) for name in sandlock_arch.names()}


def shifted(now: tuple[int, int], offset_ns: int) -> tuple[int, int]:
    """Return now + offset by plain arithmetic."""
    return divmod(now[0] * SECOND + now[1] + offset_ns, SECOND)


def assert_kept(machine: Machine, changed: frozenset[str]) -> None:
    """Assert that nothing changed which a C function must keep."""
    assert not changed & set(machine.architecture.abi.callee_saved)
    assert machine.architecture.registers.stack_pointer not in changed


@pytest.mark.parametrize("name", sandlock_arch.names())
@settings(deadline=None)
@given(offset_ns=OFFSETS, now=NOWS, clock=st.sampled_from(SHIFTING))
def test_clock_gettime_adds_the_offset_to_wall_clocks(
    name: str, offset_ns: int, now: tuple[int, int], clock: int
) -> None:
    machine = MACHINES[name]
    machine.kernel.now = now
    machine.write_words(DATA, (-1, -1, 77))
    outcome = machine.call(machine.architecture.vdso_stubs.lower(ClockGettime(offset_ns)), clock, DATA)
    assert outcome.result == 0
    assert machine.read_words(DATA, 3) == (*shifted(now, offset_ns), 77)
    assert_kept(machine, outcome.changed)


@pytest.mark.parametrize("clock", STEADY)
def test_clock_gettime_leaves_other_clocks_alone(machine: Machine, clock: int) -> None:
    code = machine.architecture.vdso_stubs.lower(ClockGettime(-12_345 * SECOND - 1))
    outcome = machine.call(code, clock, DATA)
    assert outcome.result == 0
    assert machine.read_words(DATA, 2) == machine.kernel.now
    assert_kept(machine, outcome.changed)
    # The control: the same code does shift a wall clock.
    machine.call(code, 0, DATA)
    assert machine.read_words(DATA, 2) == shifted(machine.kernel.now, -12_345 * SECOND - 1)


@pytest.mark.parametrize("clock", [0, 5])
def test_clock_id_counts_by_its_low_32_bits(machine: Machine, clock: int) -> None:
    # clockid_t is an int: the ABI lets the upper half hold anything, and the kernel ignores it.
    machine.call(machine.architecture.vdso_stubs.lower(ClockGettime(5 * SECOND)), clock | 0xDEAD << 32, DATA)
    assert machine.read_words(DATA, 2) == shifted(machine.kernel.now, 5 * SECOND)


@pytest.mark.parametrize("offset_ns", [1, -1, 1 << 70])
def test_carry_at_the_last_nanosecond(machine: Machine, offset_ns: int) -> None:
    for now in ((41, 999_999_999), (41, 0)):
        machine.kernel.now = now
        machine.call(machine.architecture.vdso_stubs.lower(ClockGettime(offset_ns)), 0, DATA)
        assert machine.read_words(DATA, 2) == shifted(now, offset_ns)


@pytest.mark.parametrize(("clock", "pointer", "errno"), [(99, DATA, EINVAL), (0, NOWHERE, EFAULT), (0, 0, EFAULT)])
def test_failed_clock_gettime_adds_nothing(machine: Machine, clock: int, pointer: int, errno: int) -> None:
    machine.write_words(DATA, (5, 6))
    outcome = machine.call(machine.architecture.vdso_stubs.lower(ClockGettime(SECOND)), clock, pointer)
    assert outcome.result == -errno
    assert machine.read_words(DATA, 2) == (5, 6)
    assert_kept(machine, outcome.changed)


@pytest.mark.parametrize("name", sandlock_arch.names())
@settings(deadline=None)
@given(offset_ns=OFFSETS, now=NOWS, zone=st.sampled_from([0, DATA + 64]))
def test_gettimeofday_adds_the_offset_rounded_down(name: str, offset_ns: int, now: tuple[int, int], zone: int) -> None:
    machine = MACHINES[name]
    machine.kernel.now = now
    machine.write_words(DATA, (-1, -1, 77))
    machine.write_words(DATA + 64, (-3, -3, 78))
    outcome = machine.call(machine.architecture.vdso_stubs.lower(Gettimeofday(offset_ns)), DATA, zone)
    assert outcome.result == 0
    total = now[0] * 1_000_000 + now[1] // 1000 + offset_ns // 1000
    assert machine.read_words(DATA, 3) == (*divmod(total, 1_000_000), 77)
    # The time zone belongs to the kernel alone: it wrote zeros, or was not asked.
    assert machine.read_words(DATA + 64, 3) == ((0, 0, 78) if zone else (-3, -3, 78))
    assert_kept(machine, outcome.changed)


@pytest.mark.parametrize("zone", [0, DATA + 64])
def test_gettimeofday_accepts_a_null_timeval(machine: Machine, zone: int) -> None:
    machine.write_words(DATA + 64, (-3, -3))
    outcome = machine.call(machine.architecture.vdso_stubs.lower(Gettimeofday(SECOND)), 0, zone)
    assert outcome.result == 0
    assert machine.read_words(DATA + 64, 2) == ((0, 0) if zone else (-3, -3))
    assert_kept(machine, outcome.changed)


@pytest.mark.parametrize(("timeval", "zone"), [(NOWHERE, 0), (DATA, NOWHERE), (NOWHERE, NOWHERE)])
def test_failed_gettimeofday_adds_nothing(machine: Machine, timeval: int, zone: int) -> None:
    machine.write_words(DATA, (5, 6))
    outcome = machine.call(machine.architecture.vdso_stubs.lower(Gettimeofday(SECOND)), timeval, zone)
    assert outcome.result == -EFAULT
    assert machine.read_words(DATA, 2) == (5, 6)
    assert_kept(machine, outcome.changed)


@settings(deadline=None)
@given(offset_ns=OFFSETS, now=NOWS, pointer=st.sampled_from([0, DATA]))
def test_time_tells_the_whole_seconds_of_the_shifted_clock(offset_ns: int, now: tuple[int, int], pointer: int) -> None:
    machine = MACHINES["x86_64"]
    machine.kernel.now = now
    machine.write_words(DATA, (-1, 77))
    outcome = machine.call(machine.architecture.vdso_stubs.lower(Time(offset_ns)), pointer, frame=64)
    expected = shifted(now, offset_ns)[0]
    assert outcome.result == expected
    assert machine.read_words(DATA, 2) == ((expected if pointer else -1), 77)
    assert_kept(machine, outcome.changed)


@pytest.mark.parametrize("name", ["aarch64", "riscv64"])
def test_time_is_refused_where_the_kernel_has_no_such_call(name: str) -> None:
    stubs = sandlock_arch.get(name).vdso_stubs
    assert "time" not in stubs.ENTRIES
    with pytest.raises(StubError, match=r"no time\(2\)"):
        stubs.lower(Time(0))


def test_forced_entry_makes_its_system_call(machine: Machine) -> None:
    architecture = machine.architecture
    for entry, operation in forced(architecture.vdso_stubs.ENTRIES).items():
        machine.kernel.calls.clear()
        outcome = machine.call(architecture.vdso_stubs.lower(operation), 1, DATA, 3)
        ((number, arguments),) = machine.kernel.calls
        assert number == architecture.syscalls[entry]
        assert arguments[:3] == (1, DATA, 3)
        assert_kept(machine, outcome.changed)
        if entry not in ("clock_gettime", "gettimeofday", "time"):
            assert outcome.result == 4711


def test_forced_call_changes_no_register_but_scratch(machine: Machine) -> None:
    abi = machine.architecture.abi
    outcome = machine.call(machine.architecture.vdso_stubs.lower(ForceSyscall("clock_getres")), 1, 2, 3)
    assert outcome.changed <= {abi.number_register, abi.return_register, *abi.clobbered_registers}


def test_unknown_system_call_is_refused(architecture: Architecture) -> None:
    with pytest.raises(StubError, match="clock_getime"):
        architecture.vdso_stubs.lower(ForceSyscall("clock_getime"))


def test_getrandom_is_forced_but_its_query_is_not(machine: Machine) -> None:
    code = machine.architecture.vdso_stubs.lower(ForceGetrandom())
    outcome = machine.call(code, DATA, 16, 1, DATA + 256, 144)
    ((number, arguments),) = machine.kernel.calls
    assert (number, arguments[:3]) == (machine.architecture.syscalls["getrandom"], (DATA, 16, 1))
    assert outcome.result == 4711
    assert_kept(machine, outcome.changed)

    machine.kernel.calls.clear()
    machine.write_words(DATA + 256, (1, 2, 3))
    outcome = machine.call(code, 0, 0, 0, DATA + 256, NO_OPAQUE_STATE)
    assert outcome.result == -ENOSYS
    assert machine.kernel.calls == []
    assert machine.read_words(DATA + 256, 3) == (1, 2, 3)
    assert_kept(machine, outcome.changed)


def test_code_runs_at_any_address(machine: Machine) -> None:
    for operation in shifted_time(machine.architecture.vdso_stubs.ENTRIES, -7 * SECOND).values():
        code = machine.architecture.vdso_stubs.lower(operation)
        for at in (0x10_0000, 0x10_0010, 0x10_8FF0):
            second = 0 if isinstance(operation, Gettimeofday) else DATA
            frame = 64 if isinstance(operation, Time) else 0
            assert machine.call(code, 0, second, at=at, frame=frame).result <= 2**40


@pytest.mark.parametrize("offset_ns", [(1 << 63) * SECOND, -((1 << 63) * SECOND) - 1])
def test_offset_beyond_64_bit_seconds_is_refused(architecture: Architecture, offset_ns: int) -> None:
    for operation in (ClockGettime(offset_ns), Gettimeofday(offset_ns)):
        with pytest.raises(StubError, match="does not fit"):
            architecture.vdso_stubs.lower(operation)


def test_forced_getrandom_is_always_the_one_that_refuses_the_query(architecture: Architecture) -> None:
    operations = forced(architecture.vdso_stubs.ENTRIES)
    assert operations["getrandom"] == ForceGetrandom()
    assert operations["clock_getres"] == ForceSyscall("clock_getres")


def test_the_call_of_a_shifting_stub_is_marked_for_filters(machine: Machine) -> None:
    stubs = machine.architecture.vdso_stubs
    operations = shifted_time(stubs.ENTRIES, SECOND)
    assert operations
    for operation in operations.values():
        machine.kernel.calls.clear()
        machine.call(stubs.lower(operation), 0, DATA, frame=64 if isinstance(operation, Time) else 0)
        ((_, arguments),) = machine.kernel.calls
        assert arguments[2] == SHIFTING_MARK
