"""The verifier against the kernel: whatever one of them takes the other one takes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from sandlock_policy.seccomp.opcodes import DATA_SIZE, JMP_JA, JMP_JEQ_K, LD_W_ABS, MAX_INSTRUCTIONS, RET_ALLOW, RET_K
from sandlock_policy.seccomp.simulate import simulate
from sandlock_policy.seccomp.verify import VerifyError, verify

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = tuple[int, int, int, int]
ALLOW: Row = (RET_K, 0, 0, RET_ALLOW)
STORE_0: Row = (0x02, 0, 0, 0)
LOAD_MEMORY_0: Row = (0x60, 0, 0, 0)


def encode(rows: Iterable[Row]) -> bytes:
    return b"".join(struct.pack("<HBBI", *row) for row in rows)


def taken(program: bytes) -> bool:
    try:
        verify(program)
    except VerifyError:
        return False
    return True


def programs() -> list[bytes]:
    """Every instruction code below 512 with telling values of k, and programs for the checks beyond single ones."""
    made = [
        encode([(code, 0, 0, k), ALLOW, ALLOW]) for code in range(512) for k in (0, 1, 4, 31, 32, DATA_SIZE - 4, 64)
    ]
    made += [
        encode([ALLOW]),
        encode([(LD_W_ABS, 0, 0, 0)]),
        encode([(JMP_JA, 0, 0, 1), ALLOW]),
        encode([(JMP_JA, 0, 0, 0xFFFFFFFF), ALLOW]),
        encode([(JMP_JEQ_K, 1, 0, 0), ALLOW]),
        encode([(JMP_JEQ_K, 0, 1, 0), ALLOW]),
        encode([(JMP_JEQ_K, 1, 0, 0), ALLOW, ALLOW]),
        encode([STORE_0, LOAD_MEMORY_0, ALLOW]),
        encode([LOAD_MEMORY_0, STORE_0, ALLOW]),
        encode([(JMP_JEQ_K, 0, 1, 0), STORE_0, LOAD_MEMORY_0, ALLOW]),
        encode([(JMP_JEQ_K, 1, 0, 0), STORE_0, STORE_0, LOAD_MEMORY_0, ALLOW]),
        encode([(JMP_JEQ_K, 1, 0, 0), STORE_0, (JMP_JA, 0, 0, 0), LOAD_MEMORY_0, ALLOW]),
        encode([STORE_0, (JMP_JEQ_K, 1, 0, 0), STORE_0, LOAD_MEMORY_0, ALLOW]),
        encode([ALLOW] * MAX_INSTRUCTIONS),
        encode([ALLOW] * (MAX_INSTRUCTIONS + 1)),
        b"",
    ]
    return made


def test_the_verifier_agrees_with_the_kernel_on_every_instruction(kernel: Any) -> None:
    made = programs()

    def offer(inside: Any) -> list[bool]:
        # All programs that are taken allow everything, so they stack: the kernel takes 32,768 instructions together.
        answers = []
        for program in made:
            kept = inside.confined(None, lambda child, program=program: child.install(program))
            answers.append(kept.signal != 0 or kept.value == 0)
        return answers

    theirs = offer(kernel)
    different = [program.hex() for program, answer in zip(made, theirs, strict=True) if answer != taken(program)]
    assert different == []
    assert True in theirs
    assert False in theirs


def test_a_half_instruction_is_refused() -> None:
    with pytest.raises(VerifyError, match="no whole number"):
        verify(encode([ALLOW]) + b"\0")


def test_the_error_names_the_instruction() -> None:
    with pytest.raises(VerifyError, match="instruction 1: offset 6") as caught:
        verify(encode([ALLOW, (LD_W_ABS, 0, 0, 6), ALLOW]))
    assert caught.value.index == 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(0x00, 0, 0, 7), (0x16, 0, 0, 0)], 7),  # A = k; return A
        ([(0x00, 0, 0, 7), (0x07, 0, 0, 0), (0x0C, 0, 0, 0), (0x16, 0, 0, 0)], 14),  # X = A; A += X
        ([(0x00, 0, 0, 1), (0x14, 0, 0, 2), (0x16, 0, 0, 0)], 0xFFFFFFFF),  # 1 - 2
        ([(0x00, 0, 0, 0x10000), (0x24, 0, 0, 0x10000), (0x16, 0, 0, 0)], 0),  # 2^16 * 2^16
        ([(0x00, 0, 0, 7), (0x3C, 0, 0, 0), (0x16, 0, 0, 0)], 0),  # 7 / X, X is 0
        ([(0x00, 0, 0, 1), (0x84, 0, 0, 0), (0x16, 0, 0, 0)], 0xFFFFFFFF),  # -1
        ([(0x00, 0, 0, 6), (0xA4, 0, 0, 3), (0x16, 0, 0, 0)], 5),  # 6 xor 3
        ([(0x00, 0, 0, 3), (0x64, 0, 0, 31), (0x16, 0, 0, 0)], 0x80000000),  # 3 << 31
        ([(0x80, 0, 0, 0), (0x16, 0, 0, 0)], DATA_SIZE),  # A = length
        ([(0x01, 0, 0, 9), (0x03, 0, 0, 2), (0x60, 0, 0, 2), (0x16, 0, 0, 0)], 9),  # X = 9; M[2] = X; A = M[2]
        ([(0x20, 0, 0, 44), (0x16, 0, 0, 0)], 0xABCD),  # the high word of args[3]
    ],
)
def test_the_simulator_calculates_as_the_kernel_does(kernel: Any, rows: list[Row], expected: int) -> None:
    arguments = (0, 0, 0, 0xABCD << 32)
    assert simulate(encode(rows), nr=0, arch=0, arguments=arguments).action == expected
    # On the kernel: what the program returned becomes the errno of one call, asked bit by bit would be dearer.
    number = kernel.arch.syscalls["getpgid"]
    guarded = [(LD_W_ABS, 0, 0, 0), (JMP_JEQ_K, 1, 0, number), ALLOW, *rows[:-1]]
    guarded += [(JMP_JEQ_K, 0, 1, expected), (RET_K, 0, 0, 0x50000 | 77), (RET_K, 0, 0, 0x50000 | 78)]
    outcome = kernel.confined(encode(guarded), lambda inside: inside.call("getpgid", *arguments))
    assert outcome.value == -77
