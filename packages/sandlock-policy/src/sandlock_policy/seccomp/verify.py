"""The checks that the kernel makes before it takes a filter, with the reason it does not give.

Mirrors bpf_check_classic and check_load_and_stores (net/core/filter.c) and seccomp_check_filter (kernel/seccomp.c).
"""

from __future__ import annotations

import struct

from sandlock_policy.seccomp.opcodes import DATA_SIZE, MAX_INSTRUCTIONS

__all__ = ["VerifyError", "decode", "verify"]

_INSTRUCTION = struct.Struct("<HBBI")  # struct sock_filter: code, jt, jf, k; linux/filter.h

_LD_W_ABS = 0x20
_LENGTH_LOADS = frozenset({0x80, 0x81})  # BPF_LD|BPF_W|BPF_LEN, BPF_LDX|BPF_W|BPF_LEN
_JA = 0x05
_CONDITIONAL_JUMPS = frozenset({0x15, 0x1D, 0x35, 0x3D, 0x25, 0x2D, 0x45, 0x4D})
_RETURNS = frozenset({0x06, 0x16})
_STORES = frozenset({0x02, 0x03})
_MEMORY_LOADS = frozenset({0x60, 0x61})
_DIVIDE_K = 0x34
_SHIFTS_K = frozenset({0x64, 0x74})
# ALU: add, sub, mul, div, or, and, lsh, rsh, xor with K and X; neg. BPF_MOD is no part of it (seccomp_check_filter).
_ARITHMETIC = frozenset(
    {op | 0x04 | source for op in (0, 16, 32, 48, 64, 80, 96, 112, 160) for source in (0, 8)} | {0x84}
)
_IMMEDIATE_LOADS = frozenset({0x00, 0x01})
_TRANSFERS = frozenset({0x07, 0x87})
_ALLOWED = (
    frozenset({_LD_W_ABS, _JA})
    | _LENGTH_LOADS
    | _IMMEDIATE_LOADS
    | _MEMORY_LOADS
    | _STORES
    | _ARITHMETIC
    | _TRANSFERS
    | _CONDITIONAL_JUMPS
    | _RETURNS
)
_MEMORY_WORDS = 16  # BPF_MEMWORDS, linux/bpf_common.h


class VerifyError(ValueError):
    """The kernel would answer EINVAL to this program; `index` is the instruction, -1 for the program as a whole."""

    def __init__(self, index: int, reason: str) -> None:
        """Say what is wrong with which instruction."""
        super().__init__(reason if index < 0 else f"instruction {index}: {reason}")
        self.index = index
        self.reason = reason


def decode(program: bytes) -> list[tuple[int, int, int, int]]:
    """Return the instructions of an array of struct sock_filter as (code, jt, jf, k); raise `VerifyError`."""
    if len(program) % _INSTRUCTION.size:
        raise VerifyError(-1, f"{len(program)} bytes are no whole number of instructions")
    return list(_INSTRUCTION.iter_unpack(program))


def verify(program: bytes) -> int:
    """Return the number of instructions of a program that the kernel takes; raise `VerifyError` for any other."""
    instructions = decode(program)
    count = len(instructions)
    if not 0 < count <= MAX_INSTRUCTIONS:
        raise VerifyError(-1, f"{count} instructions; the kernel takes 1 to {MAX_INSTRUCTIONS}")
    for index, (code, true, false, k) in enumerate(instructions):
        if code not in _ALLOWED:
            raise VerifyError(index, f"code {code:#x} is not allowed in a seccomp filter")
        if code == _LD_W_ABS and (k >= DATA_SIZE or k & 3):
            raise VerifyError(index, f"offset {k} is no word of struct seccomp_data")
        if code == _JA and index + 1 + k >= count:
            raise VerifyError(index, f"jump by {k} leaves the program")
        if code in _CONDITIONAL_JUMPS and index + 1 + max(true, false) >= count:
            raise VerifyError(index, f"jump by {max(true, false)} leaves the program")
        if code in _STORES | _MEMORY_LOADS and k >= _MEMORY_WORDS:
            raise VerifyError(index, f"there is no memory word {k}")
        if code == _DIVIDE_K and k == 0:
            raise VerifyError(index, "division by zero")
        if code in _SHIFTS_K and k >= 32:
            raise VerifyError(index, f"shift by {k} bits")
    if instructions[-1][0] not in _RETURNS:
        raise VerifyError(count - 1, "the last instruction does not return")
    _check_memory(instructions)
    return count


def _check_memory(instructions: list[tuple[int, int, int, int]]) -> None:
    """Refuse a load from a memory word that some path to it has not stored into."""
    every_word = (1 << _MEMORY_WORDS) - 1
    arriving = [every_word] * len(instructions)  # words stored into on every path that jumps here
    stored = 0
    for index, (code, true, false, k) in enumerate(instructions):
        stored &= arriving[index]
        if code in _STORES:
            stored |= 1 << k
        elif code in _MEMORY_LOADS and not stored >> k & 1:
            raise VerifyError(index, f"memory word {k} may not have been stored into")
        elif code == _JA:
            arriving[index + 1 + k] &= stored
            stored = every_word
        elif code in _CONDITIONAL_JUMPS:
            arriving[index + 1 + true] &= stored
            arriving[index + 1 + false] &= stored
            stored = every_word
