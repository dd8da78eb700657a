from __future__ import annotations

import pytest

from sandlock_policy.seccomp.assemble import AssemblyError, assemble
from sandlock_policy.seccomp.opcodes import (
    DATA_NR,
    JMP_JA,
    JMP_JEQ_K,
    JMP_JGE_K,
    LD_W_ABS,
    MAX_INSTRUCTIONS,
    RET_ALLOW,
    RET_ERRNO,
    RET_K,
)
from sandlock_policy.seccomp.simulate import simulate
from sandlock_policy.seccomp.verify import decode, verify

LOAD_NR = (LD_W_ABS, DATA_NR, None, None)
ALLOW = (RET_K, RET_ALLOW, None, None)
DENY = (RET_K, RET_ERRNO | 1, None, None)


def action(program: bytes, nr: int) -> int:
    return simulate(program, nr=nr, arch=0).action


def test_labels_become_distances() -> None:
    program = assemble([LOAD_NR, (JMP_JEQ_K, 5, "deny", None), ALLOW, "deny", DENY])
    assert decode(program) == [
        (LD_W_ABS, 0, 0, 0),
        (JMP_JEQ_K, 1, 0, 5),
        (RET_K, 0, 0, RET_ALLOW),
        (RET_K, 0, 0, RET_ERRNO | 1),
    ]


@pytest.mark.parametrize("between", [254, 255, 256, 300, 1000, 4000])
def test_a_jump_reaches_any_distance(between: int) -> None:
    padding = [LOAD_NR] * between
    program = assemble([LOAD_NR, (JMP_JEQ_K, 5, "deny", None), *padding, ALLOW, "deny", DENY])
    assert verify(program) == between + 4 + (between + 1 > 255)
    assert action(program, 5) == RET_ERRNO | 1
    assert action(program, 6) == RET_ALLOW


@pytest.mark.parametrize("between", range(250, 260))
def test_both_targets_may_be_far(between: int) -> None:
    padding = [LOAD_NR] * between
    program = assemble([LOAD_NR, (JMP_JEQ_K, 5, "deny", "far"), *padding, "far", LOAD_NR, ALLOW, "deny", DENY])
    assert action(program, 5) == RET_ERRNO | 1
    assert action(program, 6) == RET_ALLOW


def test_a_far_target_that_does_not_return_is_reached_by_a_jump() -> None:
    padding = [LOAD_NR] * 600
    program = assemble([LOAD_NR, (JMP_JEQ_K, 5, "far", None), *padding, ALLOW, "far", LOAD_NR, DENY])
    assert [code for code, _, _, _ in decode(program)].count(JMP_JA) == 1
    assert action(program, 5) == RET_ERRNO | 1
    assert action(program, 4) == RET_ALLOW


def test_many_far_jumps_share_their_trampolines() -> None:
    jumps = [(JMP_JEQ_K, nr, "deny", None) for nr in range(1000)]
    program = assemble([LOAD_NR, *jumps, ALLOW, "deny", DENY])
    assert verify(program) <= 1003 + 4
    assert {action(program, nr) for nr in range(1000)} == {RET_ERRNO | 1}
    assert action(program, 1000) == RET_ALLOW


def test_an_unconditional_jump_goes_its_whole_way_at_once() -> None:
    program = assemble([(JMP_JA, 0, "end", None), *[LOAD_NR] * 2000, "end", ALLOW])
    assert simulate(program, nr=0, arch=0).steps == 2


def test_4096_instructions_fit_and_one_more_does_not() -> None:
    assert verify(assemble([*[LOAD_NR] * (MAX_INSTRUCTIONS - 1), ALLOW])) == MAX_INSTRUCTIONS
    with pytest.raises(AssemblyError, match="4097 instructions"):
        assemble([*[LOAD_NR] * MAX_INSTRUCTIONS, ALLOW])


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([], "0 instructions"),
        ([LOAD_NR], "does not return"),
        ([(JMP_JEQ_K, 1, "nowhere", None), ALLOW], "'nowhere' is not defined ahead"),
        (["back", LOAD_NR, (JMP_JGE_K, 1, "back", None), ALLOW], "'back' is not defined ahead"),
        (["twice", LOAD_NR, "twice", ALLOW], "defined twice"),
        ([ALLOW, "end"], "behind the last instruction"),
    ],
)
def test_a_faulty_program_is_refused(items: list[object], reason: str) -> None:
    with pytest.raises(AssemblyError, match=reason):
        assemble(items)  # type: ignore[arg-type]
