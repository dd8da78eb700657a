"""An interpreter of classic BPF over struct seccomp_data, as the kernel runs filters: for tests and for --explain.

It knows every instruction that seccomp accepts (kernel/seccomp.c, seccomp_check_filter), not only those our compiler
makes, so that it can judge the compiler and foreign filters alike.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from sandlock_policy.seccomp.opcodes import ARGUMENTS, DATA_ARCH, DATA_NR, DATA_SIZE
from sandlock_policy.seccomp.verify import decode, verify

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Verdict", "simulate"]

_WORD = 0xFFFFFFFF
_MEMORY_WORDS = 16  # BPF_MEMWORDS, linux/bpf_common.h

# Fields of an instruction code, linux/bpf_common.h.
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_MODE = 0xE0
_IMM, _ABS, _MEM, _LEN = 0x00, 0x20, 0x60, 0x80
_OPERATION = 0xF0
_ADD, _SUB, _MUL, _DIV, _OR, _AND, _LSH, _RSH, _NEG, _MOD, _XOR = range(0x00, 0xB0, 0x10)
_JA, _JEQ, _JGT, _JGE, _JSET = range(0x00, 0x50, 0x10)
_SOURCE_X = 0x08
_TXA = 0x80
_RETURN_A = 0x10


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a filter answered.

    Attributes:
        action: the value returned, SECCOMP_RET_* with its data.
        loads: the offsets of struct seccomp_data that were read.
        steps: how many instructions were run.

    """

    action: int
    loads: frozenset[int]
    steps: int

    @property
    def constant(self) -> bool:
        """Whether the kernel could cache this verdict: only number and architecture were read."""
        return self.loads <= {DATA_NR, DATA_ARCH}


def simulate(
    program: bytes, *, nr: int, arch: int, arguments: Sequence[int] = (), instruction_pointer: int = 0
) -> Verdict:
    """Run `program` on one system call. `nr` is an int of 32 bits, signed or not; `arguments` are up to six u64.

    Raises `VerifyError` for a program that the kernel would not have taken.
    """
    words = [argument & 0xFFFFFFFFFFFFFFFF for argument in arguments]
    words += [0] * (ARGUMENTS - len(words))
    data = struct.pack("<IIQ6Q", nr & _WORD, arch, instruction_pointer, *words)
    return _Machine(data).run(_verified(program))


@lru_cache(maxsize=16)
def _verified(program: bytes) -> list[tuple[int, int, int, int]]:
    verify(program)
    return decode(program)


class _Machine:
    """The registers A and X and the scratch memory, which the kernel clears before each run."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.a = 0
        self.x = 0
        self.memory = [0] * _MEMORY_WORDS
        self.loads: set[int] = set()

    def run(self, program: list[tuple[int, int, int, int]]) -> Verdict:
        counter = 0
        steps = 0
        while True:
            code, true, false, k = program[counter]
            counter += 1
            steps += 1
            kind = code & 0x07
            if kind == _RET:
                action = self.a if code & 0x18 == _RETURN_A else k
                return Verdict(action, frozenset(self.loads), steps)
            if code == _DIV | _SOURCE_X | _ALU and self.x == 0:
                return Verdict(0, frozenset(self.loads), steps)  # the conversion to eBPF makes the filter end with 0
            if kind == _JMP:
                if code & _OPERATION == _JA:
                    counter += k
                else:
                    counter += true if self._holds(code, k) else false
            else:
                self._step(kind, code, k)

    def _step(self, kind: int, code: int, k: int) -> None:
        """Run an instruction that neither returns nor jumps."""
        if kind == _LD:
            self.a = self._load(code, k)
        elif kind == _LDX:
            self.x = self._load(code, k)
        elif kind == _ST:
            self.memory[k] = self.a
        elif kind == _STX:
            self.memory[k] = self.x
        elif kind == _ALU:
            self.a = self._calculate(code & _OPERATION, self.x if code & _SOURCE_X else k) & _WORD
        elif code & 0xF8 == _TXA:
            self.a = self.x
        else:
            self.x = self.a

    def _load(self, code: int, k: int) -> int:
        mode = code & _MODE
        if mode == _ABS:
            self.loads.add(k)
            word: int = struct.unpack_from("<I", self.data, k)[0]
            return word
        if mode == _MEM:
            return self.memory[k]
        return DATA_SIZE if mode == _LEN else k

    def _holds(self, code: int, k: int) -> bool:
        operand = self.x if code & _SOURCE_X else k
        operation = code & _OPERATION
        if operation == _JEQ:
            return self.a == operand
        if operation == _JGT:
            return self.a > operand
        if operation == _JGE:
            return self.a >= operand
        return self.a & operand != 0

    def _calculate(self, operation: int, operand: int) -> int:
        """Return A op operand, not yet cut to 32 bits. Shifts count modulo 32."""
        a = self.a
        if operation == _DIV:
            return a // operand
        if operation == _LSH:
            return a << (operand & 31)
        if operation == _RSH:
            return a >> (operand & 31)
        if operation == _NEG:
            return -a
        results = {
            _ADD: a + operand,
            _SUB: a - operand,
            _MUL: a * operand,
            _OR: a | operand,
            _AND: a & operand,
            _XOR: a ^ operand,
        }
        return results[operation]
