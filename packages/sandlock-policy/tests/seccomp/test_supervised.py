"""A supervisor's filter denies all that the plain one denies, and notifies what its handlers ask for."""

from __future__ import annotations

import pytest

from sandlock_arch import get, names
from sandlock_policy.seccomp.default import default_spec
from sandlock_policy.seccomp.filter import compile_filter
from sandlock_policy.seccomp.opcodes import RET_ALLOW, RET_ERRNO, RET_USER_NOTIF
from sandlock_policy.seccomp.options import FilterOptions
from sandlock_policy.seccomp.rules import Rule
from sandlock_policy.seccomp.simulate import simulate
from sandlock_policy.seccomp.supervised import compile_supervised

TRAPS = (
    Rule("uname", (), RET_USER_NOTIF, "a test"),
    Rule("ptrace", (), RET_USER_NOTIF, "a test"),
    Rule("clone", (), RET_USER_NOTIF, "a test"),
)


@pytest.mark.parametrize("name", names())
def test_a_trap_never_opens_what_is_denied(name: str) -> None:
    arch = get(name)
    program = compile_supervised(arch, FilterOptions(), TRAPS)
    denied = {rule.syscall for rule in default_spec(FilterOptions()).rules if not rule.conditions}

    def action(call: str, first: int = 0) -> int:
        return simulate(program, nr=arch.syscalls[call], arch=arch.audit_arch, arguments=(first,)).action

    for call in arch.syscalls:
        if call in denied:
            assert action(call) & 0xFFFF0000 == RET_ERRNO, call
    assert action("ptrace") == RET_ERRNO | 1
    assert action("clone", 0x10000000) == RET_ERRNO | 1  # CLONE_NEWUSER
    assert action("clone", 0x11) == RET_USER_NOTIF
    assert action("uname") == RET_USER_NOTIF
    assert action("read") == RET_ALLOW


@pytest.mark.parametrize("name", names())
def test_sec_10_nothing_can_mask_notifications(name: str) -> None:
    arch = get(name)
    program = compile_supervised(arch, FilterOptions(), TRAPS)

    def verdict(call: str, first: int) -> int:
        return simulate(program, nr=arch.syscalls[call], arch=arch.audit_arch, arguments=(first,)).action

    assert verdict("seccomp", 1) == RET_ERRNO | 1
    assert verdict("seccomp", 1 | 1 << 32) == RET_ERRNO | 1
    assert verdict("prctl", 22) == RET_ERRNO | 1
    assert verdict("prctl", 4) == RET_ERRNO
    assert verdict("prctl", 15) == RET_ALLOW  # PR_SET_NAME
    assert verdict("seccomp", 2) == RET_ALLOW  # SECCOMP_GET_ACTION_AVAIL


@pytest.mark.parametrize("name", names())
def test_a_trackers_call_is_asked_about_and_every_other_denied(name: str) -> None:
    """The flags that a tracker gives, where the run was launched so; without a supervisor nobody could be asked."""
    arch = get(name)
    tracked = 0x80000 | 1
    watched = FilterOptions(watched=True, extra_deny=("userfaultfd",))

    def verdict(program: bytes, flags: int) -> int:
        number = arch.syscalls["userfaultfd"]
        return simulate(program, nr=number, arch=arch.audit_arch, arguments=(flags,)).action

    program = compile_supervised(arch, watched, TRAPS)
    assert verdict(program, tracked) == RET_USER_NOTIF
    assert verdict(program, tracked | 1 << 32) == RET_USER_NOTIF  # the kernel takes an int
    for flags in (0, 1, 0x80000, tracked | 0x800):
        assert verdict(program, flags) == RET_ERRNO | 1
    assert verdict(compile_supervised(arch, FilterOptions(), TRAPS), tracked) == RET_ERRNO | 1
    assert verdict(compile_filter(arch, watched), tracked) == RET_ERRNO | 1
