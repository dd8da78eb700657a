"""The compiled program against the plainest reading of the rules."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sandlock_arch
from sandlock_policy.data.syscall_groups import ALWAYS
from sandlock_policy.seccomp.assemble import AssemblyError
from sandlock_policy.seccomp.compile import compile_spec
from sandlock_policy.seccomp.default import default_spec
from sandlock_policy.seccomp.filter import compile_filter
from sandlock_policy.seccomp.opcodes import (
    RET_ALLOW,
    RET_ERRNO,
    RET_KILL_PROCESS,
    RET_LOG,
    RET_TRAP,
    RET_USER_NOTIF,
)
from sandlock_policy.seccomp.options import FilterOptions
from sandlock_policy.seccomp.rules import ANY_BIT, BETWEEN, ONE_OF, Condition, FilterSpec, Rule, has_bits, one_of
from sandlock_policy.seccomp.simulate import simulate
from sandlock_policy.seccomp.verify import verify
from sandlock_testkit.profiles import examples

if TYPE_CHECKING:
    from sandlock_arch import Architecture

ARCHITECTURES = [sandlock_arch.get(name) for name in sandlock_arch.names()]
ACTIONS = [RET_ALLOW, RET_USER_NOTIF, RET_LOG, RET_TRAP, RET_ERRNO | 1, RET_ERRNO | 13, RET_ERRNO | 4095]


def holds(condition: Condition, arguments: tuple[int, ...]) -> bool:
    value = arguments[condition.argument]
    if not condition.wide:
        value &= 0xFFFFFFFF
    mask = condition.mask if condition.wide else condition.mask & 0xFFFFFFFF
    if condition.kind == ONE_OF:
        result = value & mask in condition.values
    elif condition.kind == ANY_BIT:
        result = value & mask != 0
    else:
        result = condition.values[0] <= value <= condition.values[1]
    return result != condition.negate


def expected(arch: Architecture, spec: FilterSpec, nr: int, audit_arch: int, arguments: tuple[int, ...]) -> int:
    """Evaluate the specification sentence by sentence."""
    nr &= 0xFFFFFFFF
    if audit_arch != arch.audit_arch:
        return RET_KILL_PROCESS
    if arch.foreign_bit and nr >= arch.foreign_bit:
        return RET_KILL_PROCESS
    names = [name for name, number in arch.syscalls.items() if number == nr]
    if not names:
        return spec.unreviewed
    for rule in spec.rules:
        if rule.syscall in names and all(holds(condition, arguments) for condition in rule.conditions):
            return rule.action
    return spec.default


def interesting(spec: FilterSpec) -> list[int]:
    """Every value that the conditions look for, its neighbours, and the same with the high word changed."""
    values = {0, 1, 0xFFFFFFFF, 0x100000000, 0xFFFFFFFFFFFFFFFF}
    for rule in spec.rules:
        for condition in rule.conditions:
            for value in (*condition.values, condition.mask):
                values |= {value - 1, value, value + 1, value | 1 << 32, value ^ 1 << 63, value & 0xFFFFFFFF}
    return sorted(value & 0xFFFFFFFFFFFFFFFF for value in values)


small = st.sampled_from([0, 1, 2, 3, 0x5412, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
big = st.one_of(small, st.builds(lambda high, low: high << 32 | low, small, small))


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    wide = draw(st.booleans())
    words = big if wide else small
    kind = draw(st.sampled_from([ONE_OF, ANY_BIT, BETWEEN]))
    mask = 0xFFFFFFFFFFFFFFFF if wide else 0xFFFFFFFF
    values: tuple[int, ...] = ()
    if kind == BETWEEN:
        low, high = sorted((draw(words), draw(words)))
        values = (low, high)
    elif kind == ANY_BIT or draw(st.booleans()):
        mask = draw(words)
    if kind == ONE_OF:
        values = tuple(value & mask for value in draw(st.lists(words, min_size=1, max_size=4)))
    return Condition(draw(st.integers(0, 5)), kind, mask, values, wide, draw(st.booleans()))


CALLS = ["read", "write", "ioctl", "socket", "clone", "clone3", "openat", "getpid", "chmod", "mount", "fchmodat", "bpf"]
rules = st.builds(
    Rule,
    st.sampled_from(CALLS),
    st.lists(conditions(), max_size=3).map(tuple),
    st.sampled_from(ACTIONS),
    st.just("because"),
)
specs = st.builds(
    FilterSpec,
    st.lists(rules, max_size=25).map(tuple),
    st.sampled_from([RET_ALLOW, RET_ERRNO | 38, RET_KILL_PROCESS]),
    st.sampled_from([RET_ERRNO | 38, RET_KILL_PROCESS]),
)


@settings(max_examples=examples(200), deadline=None)
@given(spec=specs, arch=st.sampled_from(ARCHITECTURES), data=st.data())
def test_the_program_does_what_the_rules_say(spec: FilterSpec, arch: Architecture, data: st.DataObject) -> None:
    program = compile_spec(arch, spec)
    verify(program)
    words = interesting(spec)
    numbers = [*(arch.syscalls[name] for name in CALLS if name in arch.syscalls), arch.last_reviewed_syscall + 1]
    for _ in range(20):
        nr = data.draw(st.one_of(st.sampled_from(numbers), st.integers(-(1 << 31), (1 << 32) - 1)))
        audit_arch = data.draw(st.sampled_from([arch.audit_arch, arch.audit_arch, arch.audit_arch, 0x40000003]))
        arguments = tuple(data.draw(st.lists(st.sampled_from(words), min_size=6, max_size=6)))
        verdict = simulate(program, nr=nr, arch=audit_arch, arguments=arguments)
        assert verdict.action == expected(arch, spec, nr, audit_arch, arguments)


option_sets = st.builds(
    FilterOptions,
    tcp=st.booleans(),
    listen=st.booleans(),
    unix_sockets=st.booleans(),
    deny_metadata=st.booleans(),
    extra_deny=st.lists(
        st.sampled_from([*ALWAYS, "metadata", *sorted(ARCHITECTURES[0].syscalls)]), max_size=60, unique=True
    ).map(tuple),
    extra_allow=st.lists(st.sampled_from(["ptrace", "sysv_ipc", "personality", "read"]), unique=True).map(tuple),
)


@settings(max_examples=examples(30), deadline=None)
@given(options=option_sets, arch=st.sampled_from(ARCHITECTURES), data=st.data())
def test_real_filters_do_what_their_rules_say(options: FilterOptions, arch: Architecture, data: st.DataObject) -> None:
    spec = default_spec(options)
    program = compile_filter(arch, options)
    words = interesting(spec)
    for nr in range(arch.last_reviewed_syscall + 3):
        arguments = tuple(
            data.draw(st.sampled_from(words)) if nr % 5 == 0 else words[nr % len(words)] for _ in range(6)
        )
        assert simulate(program, nr=nr, arch=arch.audit_arch, arguments=arguments).action == expected(
            arch, spec, nr, arch.audit_arch, arguments
        )


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.name)
def test_every_argument_value_of_the_default_filter_is_decided_by_its_rules(arch: Architecture) -> None:
    spec = default_spec(FilterOptions(tcp=True))
    program = compile_filter(arch, FilterOptions(tcp=True))
    words = interesting(spec)
    for name in sorted({rule.syscall for rule in spec.rules if rule.conditions}):
        nr = arch.syscalls.get(name, arch.last_reviewed_syscall + 1)
        first = {condition.argument for rule in spec.rules if rule.syscall == name for condition in rule.conditions}
        for argument in first:
            for word in words:
                for others in (0, 1, 6, 41):
                    arguments = tuple(word if index == argument else others for index in range(6))
                    verdict = simulate(program, nr=nr, arch=arch.audit_arch, arguments=arguments)
                    assert verdict.action == expected(arch, spec, nr, arch.audit_arch, arguments), (name, arguments)


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.name)
def test_w44_no_number_of_denied_calls_changes_another_verdict(arch: Architecture) -> None:
    notified = tuple(Rule(name, (), RET_USER_NOTIF, "served") for name in ("openat", "connect", "execve", "socket"))
    names = sorted(set(arch.syscalls) - {rule.syscall for rule in notified})
    tested = Rule("ioctl", (one_of(1, 7),), RET_ERRNO | 13, "an argument")
    for count in range(0, len(names), 9):
        denied = [Rule(name, (), RET_ERRNO | 1, "denied") for name in names[::2][:count] + names[1::2][: count // 2]]
        spec = FilterSpec((*denied, *notified, tested))
        program = compile_spec(arch, spec)
        for nr in arch.syscalls.values():
            for arguments in ((0,) * 6, (0, 7, 0, 0, 0, 0)):
                verdict = simulate(program, nr=nr, arch=arch.audit_arch, arguments=arguments)
                assert verdict.action == expected(arch, spec, nr, arch.audit_arch, arguments)
    assert count > 243


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.name)
def test_w44_argument_blocks_of_any_length_keep_their_verdicts(arch: Architecture) -> None:
    values = range(1, 1200, 2)
    listed = tuple(Rule("ioctl", (one_of(1, value),), RET_ERRNO | 1, "listed") for value in values)
    paired = tuple(Rule("prctl", (one_of(0, v), has_bits(1, 1)), RET_ERRNO | 13, "listed") for v in range(300))
    program = compile_spec(arch, FilterSpec((*listed, *paired, Rule("mount", (), RET_USER_NOTIF, "served"))))
    assert 1500 < verify(program) <= 4096

    def action(name: str, *arguments: int) -> int:
        return simulate(program, nr=arch.syscalls[name], arch=arch.audit_arch, arguments=arguments).action

    assert all(action("ioctl", 0, value) == RET_ERRNO | 1 for value in values)
    assert all(action("ioctl", 0, value + 1) == RET_ALLOW for value in values)
    assert all(action("prctl", value, 1) == RET_ERRNO | 13 for value in range(300))
    assert all(action("prctl", value, 2) == RET_ALLOW for value in range(300))
    assert action("mount") == RET_USER_NOTIF
    assert action("read") == RET_ALLOW


def test_a_filter_that_is_too_long_for_the_kernel_is_an_error() -> None:
    many = tuple(Rule("ioctl", (one_of(1, value),), RET_ERRNO | 1, "listed") for value in range(5000))
    with pytest.raises(AssemblyError, match="the kernel takes 1 to 4096"):
        compile_spec(ARCHITECTURES[0], FilterSpec(many))


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.name)
def test_the_architecture_is_the_first_thing_read(arch: Architecture) -> None:
    program = compile_filter(arch, FilterOptions())
    assert struct.unpack_from("<HBBI", program) == (0x20, 0, 0, 4)
    for foreign in (0x40000003, 0x40000028, 0xC000003E, 0xC00000B7, 0xC00000F3, 0):
        verdict = simulate(program, nr=arch.syscalls["read"], arch=foreign)
        if foreign != arch.audit_arch:
            assert verdict.action == RET_KILL_PROCESS
            assert verdict.loads == {4}


def test_names_of_other_architectures_are_passed_over() -> None:
    spec = FilterSpec((Rule("open", (), RET_ERRNO | 1, "x86_64 only"), Rule("riscv_hwprobe", (), RET_ERRNO | 1, "")))
    answers = []
    for arch in ARCHITECTURES:
        program = compile_spec(arch, spec)
        actions = {name: simulate(program, nr=nr, arch=arch.audit_arch).action for name, nr in arch.syscalls.items()}
        answers.append({name for name, action in actions.items() if action != RET_ALLOW})
    assert answers == [{"open"}, set(), {"riscv_hwprobe"}]


def test_the_same_specification_always_gives_the_same_bytes() -> None:
    spec = default_spec(FilterOptions(tcp=True, extra_deny=("sysv_ipc", "getpid")))
    assert len({compile_spec(ARCHITECTURES[0], spec) for _ in range(5)}) == 1
