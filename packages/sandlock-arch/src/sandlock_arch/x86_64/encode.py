"""x86_64 instructions as bytes: Intel SDM volume 2. Registers are named as in the register layout, 64 bits wide.

Branch distances count from the start of the branch, as in `sandlock_arch.sequence`; the processor counts from its end.
"""

from __future__ import annotations

import struct

from sandlock_arch.operand import number_of, signed, word64

__all__ = [
    "ABOVE_OR_EQUAL",
    "EQUAL",
    "LESS",
    "NOT_EQUAL",
    "add",
    "add_immediate",
    "branch_if",
    "compare_immediate",
    "compare_immediate32",
    "endbr64",
    "jump",
    "load",
    "load_immediate",
    "ret",
    "store",
    "syscall",
    "test",
    "trap",
]

_NUMBERS = {
    name: number for number, name in enumerate("rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split())
}

# Condition codes of Jcc: SDM appendix B, table B-1.
ABOVE_OR_EQUAL = 0x3
EQUAL = 0x4
NOT_EQUAL = 0x5
LESS = 0xC

_NEEDS_SIB = 4  # rsp and r12 as a base: r/m 100 announces a SIB byte


def syscall() -> bytes:
    """Enter the kernel; rcx and r11 are lost."""
    return b"\x0f\x05"


def trap() -> bytes:
    """INT3."""
    return b"\xcc"


def ret() -> bytes:
    """Return from a function."""
    return b"\xc3"


def endbr64() -> bytes:
    """Mark a place where an indirect branch may land (CET)."""
    return b"\xf3\x0f\x1e\xfa"


def jump(source: int, target: int) -> bytes:
    """JMP rel32: go from `source` to `target`, within 2 GiB; 5 bytes."""
    return b"\xe9" + signed(target - source - 5, 32).to_bytes(4, "little")


def branch_if(condition: int, distance: int) -> bytes:
    """Jcc rel8: branch if the flags say so; 2 bytes, within 127."""
    return bytes((0x70 | condition, signed(distance - 2, 8)))


def load_immediate(register: str, value: int) -> bytes:
    """MOV register, value: in the shortest of its three forms; flags are kept."""
    number = number_of(_NUMBERS, register)
    word = word64(value)
    low, high = number & 7, number >> 3
    if word < 1 << 32:
        # Writing a 32-bit register clears the upper half.
        return (b"\x41" if high else b"") + bytes((0xB8 | low,)) + struct.pack("<I", word)
    if word >= (1 << 64) - (1 << 31):
        return bytes((0x48 | high, 0xC7, 0xC0 | low)) + struct.pack("<I", word & 0xFFFFFFFF)
    return bytes((0x48 | high, 0xB8 | low)) + struct.pack("<Q", word)


def load(register: str, base: str, offset: int = 0) -> bytes:
    """MOV register, [base + offset]."""
    return _with_memory(0x8B, register, base, offset)


def store(base: str, offset: int, register: str) -> bytes:
    """MOV [base + offset], register."""
    return _with_memory(0x89, register, base, offset)


def add(target: str, source: str) -> bytes:
    """ADD target, source."""
    return _with_registers(0x01, target, source)


def test(one: str, other: str) -> bytes:
    """TEST one, other: set the flags from their AND."""
    return _with_registers(0x85, one, other)


def add_immediate(register: str, value: int) -> bytes:
    """ADD register, value: sign-extended from 32 bits."""
    return _with_immediate(0, register, value)


def compare_immediate(register: str, value: int) -> bytes:
    """CMP register, value: all 64 bits, the value sign-extended from 32."""
    return _with_immediate(7, register, value)


def compare_immediate32(register: str, value: int) -> bytes:
    """CMP of the low 32 bits of register with a value of 8 bits, sign-extended."""
    number = number_of(_NUMBERS, register)
    return (b"\x41" if number >> 3 else b"") + bytes((0x83, 0xF8 | number & 7, signed(value, 8)))


def _with_immediate(operation: int, register: str, value: int) -> bytes:
    number = number_of(_NUMBERS, register)
    code = bytes((0x48 | number >> 3, 0x81, 0xC0 | operation << 3 | number & 7))
    return code + signed(value, 32).to_bytes(4, "little")


def _with_registers(opcode: int, target: str, source: str) -> bytes:
    rm, reg = number_of(_NUMBERS, target), number_of(_NUMBERS, source)
    return bytes((0x48 | reg >> 3 << 2 | rm >> 3, opcode, 0xC0 | (reg & 7) << 3 | rm & 7))


def _with_memory(opcode: int, register: str, base: str, offset: int) -> bytes:
    reg, rm = number_of(_NUMBERS, register), number_of(_NUMBERS, base)
    # mod 01: a displacement of 8 bits, always, because rbp and r13 have no form without one.
    code = bytes((0x48 | reg >> 3 << 2 | rm >> 3, opcode, 0x40 | (reg & 7) << 3 | rm & 7))
    sib = b"\x24" if rm & 7 == _NEEDS_SIB else b""
    return code + sib + bytes((signed(offset, 8),))
