"""The verifier against the kernel: whatever one of them takes the other one takes."""

from __future__ import annotations

import signal
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
    """Every instruction code, telling values of k where k is checked, and the checks beyond single instructions."""
    with_checked_k = (0x00, 0x01, 0x02, 0x03, 0x05, 0x20, 0x34, 0x60, 0x61, 0x64, 0x74, 0x80)
    made = [encode([(code, 0, 0, 0), ALLOW, ALLOW]) for code in (*range(256), *range(256, 65536, 4099))]
    made += [
        encode([STORE_0, (code, 0, 0, k), ALLOW, ALLOW])
        for code in with_checked_k
        for k in (1, 4, 15, 16, 31, 32, DATA_SIZE - 4, DATA_SIZE)
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

    def kernel_takes(program: bytes) -> bool:
        # A child for each: some of the programs that are taken kill it at its next call.
        outcome = kernel.confined(None, lambda child: child.install(program))
        return bool(outcome.signal or outcome.value == 0)

    theirs = [kernel_takes(program) for program in made]
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
        ([(0x01, 0, 0, 2), (0x00, 0, 0, 7), (0x3C, 0, 0, 0), (0x16, 0, 0, 0)], 3),  # X = 2; 7 / X
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


def test_a_division_by_zero_ends_the_filter_with_kill(kernel: Any) -> None:
    number = kernel.arch.syscalls["getpgid"]
    guard = [(LD_W_ABS, 0, 0, 0), (JMP_JEQ_K, 1, 0, number), ALLOW]
    program = encode([*guard, (0x3C, 0, 0, 0), ALLOW])
    assert simulate(program, nr=number, arch=0).action == 0
    assert kernel.confined(program, lambda inside: inside.call("getppid") > 0).value is True
    assert kernel.confined(program, lambda inside: inside.call("getpgid", 0)).signal == signal.SIGSYS
