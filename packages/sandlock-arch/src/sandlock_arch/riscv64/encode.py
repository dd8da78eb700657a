"""riscv64 instructions as bytes: RISC-V unprivileged ISA, RV64I only, none compressed. Registers by their ABI names.

Branch distances count in bytes from the branch itself.
"""

from __future__ import annotations

import struct

from sandlock_arch.errors import EncodeError
from sandlock_arch.operand import number_of, signed, unsigned, word64

__all__ = [
    "JUMP_SCRATCH",
    "add",
    "add_immediate",
    "branch_if_equal",
    "branch_if_less",
    "branch_if_not_equal",
    "jump",
    "load",
    "load_immediate",
    "move",
    "ret",
    "shift_left",
    "sign_extend32",
    "store",
    "subtract",
    "syscall",
    "trap",
]

_NAMES = "zero ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6"
_NUMBERS = {name: number for number, name in enumerate(_NAMES.split())}

# A jump through t2 is "software guarded" (Zicfilp): the processor wants no landing pad at its target.
JUMP_SCRATCH = "t2"


def syscall() -> bytes:
    """ECALL."""
    return _word(0x00000073)


def trap() -> bytes:
    """EBREAK."""
    return _word(0x00100073)


def ret() -> bytes:
    """Return to ra."""
    return _immediate(0x67, 0, "zero", "ra", 0)


def jump(source: int, target: int) -> bytes:
    """AUIPC and JALR: go from `source` to `target`, within 2 GiB; 8 bytes, `JUMP_SCRATCH` is lost."""
    distance = target - source
    if distance % 2:
        raise EncodeError(f"a jump of {distance:#x} bytes: instructions start at even addresses")
    # JALR adds a signed 12-bit part, so AUIPC's part is rounded to the nearest 4 KiB.
    upper = (distance + 0x800) & ~0xFFF
    number = number_of(_NUMBERS, JUMP_SCRATCH)
    code = _word(signed(upper, 20, 0x1000) << 12 | number << 7 | 0x17)
    return code + _immediate(0x67, 0, "zero", JUMP_SCRATCH, distance - upper)


def load_immediate(register: str, value: int) -> bytes:
    """LI: LUI and ADDIW for 32 bits; longer values shift the upper part left and add 12 bits at a time."""
    word = word64(value)
    return _load_signed(register, word - (1 << 64) if word >> 63 else word)


def _load_signed(register: str, value: int) -> bytes:
    low = (value & 0xFFF) - 0x1000 if value & 0x800 else value & 0xFFF
    if -(1 << 31) <= value < 1 << 31:
        upper = (value - low) >> 12 & 0xFFFFF
        if not upper:
            return add_immediate(register, "zero", low)
        code = _word(upper << 12 | _number(register) << 7 | 0x37)
        # ADDIW: what LUI sign-extended above bit 31 must not survive the addition.
        return code + (_immediate(0x1B, 0, register, register, low) if low else b"")
    rest = value - low
    shift = (rest & -rest).bit_length() - 1
    # Close below 2**63 the rest is 2**63 itself: 1, shifted into the sign bit, which is what 64 bits make of it.
    code = _load_signed(register, rest >> shift) + shift_left(register, register, shift)
    return code + (add_immediate(register, register, low) if low else b"")


def move(target: str, source: str) -> bytes:
    """MV."""
    return add_immediate(target, source, 0)


def sign_extend32(target: str, source: str) -> bytes:
    """SEXT.W: the low 32 bits, their sign in all bits above."""
    return _immediate(0x1B, 0, target, source, 0)


def add_immediate(target: str, source: str, value: int) -> bytes:
    """ADDI: a value of 12 bits, signed."""
    return _immediate(0x13, 0, target, source, value)


def shift_left(target: str, source: str, count: int) -> bytes:
    """SLLI: 0 .. 63 bits."""
    return _immediate(0x13, 1, target, source, unsigned(count, 6))


def add(target: str, one: str, other: str) -> bytes:
    """ADD."""
    return _word(_number(other) << 20 | _number(one) << 15 | _number(target) << 7 | 0x33)


def subtract(target: str, one: str, other: str) -> bytes:
    """SUB."""
    return _word(0x40000000 | _number(other) << 20 | _number(one) << 15 | _number(target) << 7 | 0x33)


def load(target: str, base: str, offset: int = 0) -> bytes:
    """LD: 64 bits."""
    return _immediate(0x03, 3, target, base, offset)


def store(base: str, offset: int, source: str) -> bytes:
    """SD: 64 bits."""
    field = signed(offset, 12)
    registers = _number(source) << 20 | _number(base) << 15
    return _word(field >> 5 << 25 | registers | 3 << 12 | (field & 31) << 7 | 0x23)


def branch_if_equal(one: str, other: str, distance: int) -> bytes:
    """BEQ: within 4 KiB."""
    return _branch(0, one, other, distance)


def branch_if_not_equal(one: str, other: str, distance: int) -> bytes:
    """BNE: within 4 KiB."""
    return _branch(1, one, other, distance)


def branch_if_less(one: str, other: str, distance: int) -> bytes:
    """BLT: signed; within 4 KiB."""
    return _branch(4, one, other, distance)


def _branch(function: int, one: str, other: str, distance: int) -> bytes:
    # The field counts in steps of 2 bytes: its bits are distance[12:1].
    field = signed(distance, 12, 2)
    upper = (field >> 11 & 1) << 31 | (field >> 4 & 0x3F) << 25
    lower = (field & 0xF) << 8 | (field >> 10 & 1) << 7
    return _word(upper | _number(other) << 20 | _number(one) << 15 | function << 12 | lower | 0x63)


def _immediate(opcode: int, function: int, target: str, source: str, value: int) -> bytes:
    registers = _number(source) << 15 | function << 12 | _number(target) << 7
    return _word(signed(value, 12) << 20 | registers | opcode)


def _number(register: str) -> int:
    return number_of(_NUMBERS, register)


def _word(instruction: int) -> bytes:
    return struct.pack("<I", instruction)
