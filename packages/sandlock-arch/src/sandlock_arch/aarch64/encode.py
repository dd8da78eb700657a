"""aarch64 instructions as bytes: Arm ARM (DDI 0487) chapter C6. Registers are named as in the register layout.

Branch distances count in bytes from the branch itself.
"""

from __future__ import annotations

import struct

from sandlock_arch.operand import number_of, signed, unsigned, word64

__all__ = [
    "EQUAL",
    "LESS",
    "NOT_EQUAL",
    "add",
    "branch",
    "branch_if",
    "branch_if_not_zero",
    "branch_if_zero",
    "bti_c",
    "compare",
    "compare_immediate32",
    "increment",
    "jump",
    "load_immediate",
    "load_pair",
    "move",
    "move_not",
    "ret",
    "store_pair",
    "subtract",
    "syscall",
    "trap",
]

_NUMBERS = {f"x{number}": number for number in range(31)}
# 31 is the stack pointer as a base of loads and stores; elsewhere here it would be the zero register.
_BASES = _NUMBERS | {"sp": 31}

# Condition codes of B.cond: C1.2.4.
EQUAL = 0x0
NOT_EQUAL = 0x1
LESS = 0xB


def syscall() -> bytes:
    """SVC #0."""
    return _word(0xD4000001)


def trap() -> bytes:
    """BRK #0."""
    return _word(0xD4200000)


def ret() -> bytes:
    """Return to x30."""
    return _word(0xD65F03C0)


def bti_c() -> bytes:
    """BTI c: mark a place where an indirect call may land; a hint, so older processors ignore it."""
    return _word(0xD503245F)


def jump(source: int, target: int) -> bytes:
    """B: go from `source` to `target`, within 128 MiB; 4 bytes."""
    return branch(target - source)


def branch(distance: int) -> bytes:
    """B: within 128 MiB."""
    return _word(0x14000000 | signed(distance, 26, 4))


def branch_if(condition: int, distance: int) -> bytes:
    """B.cond: within 1 MiB."""
    return _word(0x54000000 | signed(distance, 19, 4) << 5 | condition)


def branch_if_zero(register: str, distance: int) -> bytes:
    """CBZ of all 64 bits: within 1 MiB; flags are kept."""
    return _word(0xB4000000 | signed(distance, 19, 4) << 5 | _number(register))


def branch_if_not_zero(register: str, distance: int) -> bytes:
    """CBNZ of all 64 bits: within 1 MiB; flags are kept."""
    return _word(0xB5000000 | signed(distance, 19, 4) << 5 | _number(register))


def load_immediate(register: str, value: int) -> bytes:
    """MOVZ or MOVN, then a MOVK for each 16 bits that are still wrong; one to four instructions, flags are kept."""
    number, word = _number(register), word64(value)
    parts = [word >> 16 * index & 0xFFFF for index in range(4)]
    inverted = parts.count(0xFFFF) > parts.count(0)
    background = 0xFFFF if inverted else 0
    wrong = [index for index in range(4) if parts[index] != background] or [0]
    first = wrong[0]
    if inverted:
        code = _word(0x92800000 | first << 21 | (parts[first] ^ 0xFFFF) << 5 | number)
    else:
        code = _word(0xD2800000 | first << 21 | parts[first] << 5 | number)
    return code + b"".join(_word(0xF2800000 | index << 21 | parts[index] << 5 | number) for index in wrong[1:])


def move(target: str, source: str) -> bytes:
    """MOV target, source."""
    return _word(0xAA0003E0 | _number(source) << 16 | _number(target))


def move_not(target: str, source: str) -> bytes:
    """MVN target, source: every bit inverted."""
    return _word(0xAA2003E0 | _number(source) << 16 | _number(target))


def add(target: str, one: str, other: str) -> bytes:
    """ADD target, one, other."""
    return _three(0x8B000000, target, one, other)


def subtract(target: str, one: str, other: str) -> bytes:
    """SUB target, one, other."""
    return _three(0xCB000000, target, one, other)


def increment(register: str, value: int) -> bytes:
    """ADD register, register, value: 0 .. 4095."""
    number = _number(register)
    return _word(0x91000000 | unsigned(value, 12) << 10 | number << 5 | number)


def compare(one: str, other: str) -> bytes:
    """CMP of all 64 bits."""
    return _word(0xEB00001F | _number(other) << 16 | _number(one) << 5)


def compare_immediate32(register: str, value: int) -> bytes:
    """CMP of the low 32 bits with 0 .. 4095."""
    return _word(0x7100001F | unsigned(value, 12) << 10 | _number(register) << 5)


def load_pair(one: str, other: str, base: str, offset: int = 0) -> bytes:
    """LDP one, other, [base, offset]: two words of 64 bits."""
    return _pair(0xA9400000, one, other, base, offset)


def store_pair(one: str, other: str, base: str, offset: int = 0) -> bytes:
    """STP one, other, [base, offset]: two words of 64 bits."""
    return _pair(0xA9000000, one, other, base, offset)


def _pair(opcode: int, one: str, other: str, base: str, offset: int) -> bytes:
    fields = signed(offset, 7, 8) << 15 | _number(other) << 10 | number_of(_BASES, base) << 5 | _number(one)
    return _word(opcode | fields)


def _three(opcode: int, target: str, one: str, other: str) -> bytes:
    return _word(opcode | _number(other) << 16 | _number(one) << 5 | _number(target))


def _number(register: str) -> int:
    return number_of(_NUMBERS, register)


def _word(instruction: int) -> bytes:
    return struct.pack("<I", instruction)
