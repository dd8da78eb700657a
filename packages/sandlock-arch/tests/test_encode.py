"""Encoders do what their names say, on an emulated processor, for every operand that fits, and refuse the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from arch_emulator import CODE, Machine
from hypothesis import given, settings
from hypothesis import strategies as st

import sandlock_arch
from sandlock_arch import Architecture
from sandlock_arch.aarch64 import encode as a64
from sandlock_arch.errors import EncodeError
from sandlock_arch.riscv64 import encode as rv64
from sandlock_arch.x86_64 import encode as x86

MACHINES = {name: Machine(sandlock_arch.get(name)) for name in sandlock_arch.names()}
ALL = pytest.mark.parametrize("name", sandlock_arch.names())
MASK = (1 << 64) - 1

# Values near powers of two find the seams between the forms of an instruction.
EDGES = st.builds(lambda power, near: (1 << power) + near, st.integers(0, 63), st.integers(-2, 2))
WORDS = st.one_of(st.integers(-(1 << 63), MASK), EDGES, EDGES.map(lambda value: -value))
examples = settings(deadline=None)


def in_range(value: int) -> bool:
    return -(1 << 63) <= value <= MASK


@ALL
@examples
@given(value=WORDS.filter(in_range), data=st.data())
def test_load_immediate_sets_the_register_and_nothing_else(name: str, value: int, data: st.DataObject) -> None:
    machine = MACHINES[name]
    abi = machine.architecture.abi
    register = data.draw(st.sampled_from([*abi.function_arguments, *abi.callee_saved[-6:]]))
    others = {other: 0xA5A5_0000 + number for number, other in enumerate(abi.function_arguments) if other != register}
    machine.run(machine.architecture.encode.load_immediate(register, value), {register: 0x5A5A, **others})
    assert machine.register(register) == value & MASK
    assert {other: machine.register(other) for other in others} == others


@ALL
@pytest.mark.parametrize("value", [1 << 64, -(1 << 63) - 1])
def test_load_immediate_refuses_more_than_64_bits(name: str, value: int) -> None:
    abi = sandlock_arch.get(name).abi
    with pytest.raises(EncodeError, match="64 bits"):
        sandlock_arch.get(name).encode.load_immediate(abi.return_register, value)


def test_unknown_register_is_refused(architecture: Architecture) -> None:
    with pytest.raises(EncodeError, match="xyz"):
        architecture.encode.load_immediate("xyz", 0)


@ALL
@examples
@given(source=st.integers(0, 0xFF0), target=st.integers(0, 0xFF0))
def test_jump_arrives_and_runs_nothing_between(name: str, source: int, target: int) -> None:
    machine = MACHINES[name]
    encode, register = machine.architecture.encode, machine.architecture.abi.callee_saved[-1]
    source, target = source * 16, target * 16
    if abs(target - source) < 16:
        return
    arrived = encode.load_immediate(register, 4711)
    end = target + len(arrived)
    code = bytearray(0x1_0000)
    jump = encode.jump(CODE + source, CODE + target)
    assert len(jump) == len(encode.jump(0, 0))
    code[source : source + len(jump)] = jump
    code[target:end] = arrived
    machine.run_fragment(bytes(code), {register: 0}, start=source, end=end)
    assert machine.register(register) == 4711


@pytest.mark.parametrize(
    ("name", "distance"),
    [
        ("x86_64", (1 << 31) + 5),
        ("x86_64", -(1 << 31) + 4),
        ("aarch64", 1 << 27),
        ("aarch64", -(1 << 27) - 4),
        ("aarch64", 6),
        ("riscv64", (1 << 31) - 0x800),
        ("riscv64", -(1 << 31) - 0x802),
        ("riscv64", 7),
    ],
)
def test_jump_too_far_or_askew_is_refused(name: str, distance: int) -> None:
    encode = sandlock_arch.get(name).encode
    with pytest.raises(EncodeError):
        encode.jump(1 << 40, (1 << 40) + distance)


@pytest.mark.parametrize(
    ("name", "distance"),
    [
        ("x86_64", (1 << 31) + 4),
        ("x86_64", -(1 << 31) + 5),
        ("aarch64", (1 << 27) - 4),
        ("aarch64", -(1 << 27)),
        ("riscv64", (1 << 31) - 0x802),
        ("riscv64", -(1 << 31) - 0x800),
    ],
)
def test_jump_reaches_as_far_as_it_says(name: str, distance: int) -> None:
    encode = sandlock_arch.get(name).encode
    assert len(encode.jump(1 << 40, (1 << 40) + distance)) == len(encode.jump(0, 0))


@examples
@given(one=st.integers(0, MASK), other=st.integers(0, MASK))
def test_addition_and_subtraction_wrap(one: int, other: int) -> None:
    machine = MACHINES["x86_64"]
    machine.run(x86.add("r14", "rcx"), {"r14": one, "rcx": other})
    assert machine.register("r14") == (one + other) & MASK
    machine = MACHINES["aarch64"]
    machine.run(a64.add("x1", "x2", "x3") + a64.subtract("x4", "x2", "x3"), {"x2": one, "x3": other})
    assert machine.register("x1") == (one + other) & MASK
    assert machine.register("x4") == (one - other) & MASK
    machine = MACHINES["riscv64"]
    machine.run(rv64.add("a1", "a2", "a3") + rv64.subtract("a4", "a2", "a3"), {"a2": one, "a3": other})
    assert machine.register("a1") == (one + other) & MASK
    assert machine.register("a4") == (one - other) & MASK


@examples
@given(value=st.integers(0, MASK), immediate=st.integers(-(1 << 31), (1 << 31) - 1))
def test_x86_64_add_immediate_sign_extends(value: int, immediate: int) -> None:
    machine = MACHINES["x86_64"]
    machine.run(x86.add_immediate("r12", immediate), {"r12": value})
    assert machine.register("r12") == (value + immediate) & MASK


@examples
@given(value=st.integers(0, MASK))
def test_riscv64_sign_extension_looks_at_32_bits(value: int) -> None:
    machine = MACHINES["riscv64"]
    machine.run(rv64.sign_extend32("t0", "a0"), {"a0": value})
    low = value & 0xFFFF_FFFF
    assert machine.register("t0") == (low - (1 << 32) if low >> 31 else low) & MASK


def test_operands_that_do_not_fit_are_refused() -> None:
    attempts: list[Callable[[], bytes]] = [
        lambda: x86.load("rax", "rsi", 128),
        lambda: x86.add_immediate("rax", 1 << 31),
        lambda: x86.branch_if(x86.EQUAL, 130),
        lambda: x86.compare_immediate32("rax", 128),
        lambda: a64.load_pair("x0", "x1", "x2", 512),
        lambda: a64.load_pair("x0", "x1", "x2", 4),
        lambda: a64.increment("x0", 4096),
        lambda: a64.compare_immediate32("x0", -1),
        lambda: a64.branch_if(a64.EQUAL, 1 << 20),
        lambda: a64.move("sp", "x0"),
        lambda: rv64.add_immediate("a0", "a0", 2048),
        lambda: rv64.shift_left("a0", "a0", 64),
        lambda: rv64.branch_if_equal("a0", "a1", 4096),
        lambda: rv64.branch_if_less("a0", "a1", 3),
        lambda: rv64.store("a0", -2049, "a1"),
    ]
    for attempt in attempts:
        with pytest.raises(EncodeError):
            attempt()


def test_encoders_and_abi_agree_on_bytes(architecture: Architecture) -> None:
    assert architecture.encode.syscall() == architecture.abi.syscall_instruction
    assert architecture.encode.trap() == architecture.abi.trap_instruction
