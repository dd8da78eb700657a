"""NOT-15: a signal without SA_RESTART during a notification breaks no program."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import PYTHON, supervise

from sandlock_arch import native
from sandlock_notif.handlers.processes import ProcessLimit
from sandlock_notif.handlers.signals import ChildSignals, decide_flags
from sandlock_policy.seccomp.rules import ABSENT, Rule

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]

CLONE3 = Rule("clone3", (), ABSENT, "as in the default filter")
PIPELINES = """
i=0; while [ $i -lt 334 ]; do echo $i | cat | cat >/dev/null || exit 1; i=$((i+1)); done; echo done
"""
INSTALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_ulong), ("flags", ctypes.c_ulong), ("rest", ctypes.c_ulong * 16)]
def put(signal, handler, flags):
    new, old = Action(handler, flags), Action()
    assert libc.syscall(NUMBER, signal, ctypes.byref(new), None, 8) == 0
    assert libc.syscall(NUMBER, signal, None, ctypes.byref(old), 8) == 0
    return hex(old.flags)
print(put(17, 0x1000, 0x04000000), put(17, 1, 0x04000000), put(12, 0x1000, 0x04000000))
libc.syscall(NUMBER, 17, 8, None, 8)
print(ctypes.get_errno() == 14)
""".replace("NUMBER", str(native().syscalls["rt_sigaction"]))


def test_not_15_a_thousand_forks_of_dash_all_succeed() -> None:
    outcome = supervise(["/bin/sh", "-c", PIPELINES], ChildSignals(), ProcessLimit(8), rules=[CLONE3])
    assert (outcome.code, outcome.output) == (0, b"done\n"), outcome.events


def test_only_handlers_of_sigchld_get_the_flag() -> None:
    outcome = supervise([PYTHON, "-I", "-c", INSTALL], ChildSignals())
    assert outcome.output == b"0x14000000 0x4000000 0x4000000\nTrue\n"
    assert supervise([PYTHON, "-I", "-c", INSTALL]).output == b"0x4000000 0x4000000 0x4000000\nTrue\n"


@pytest.mark.parametrize(
    ("script", "output"),
    [
        ("timeout 0.2 sleep 5; echo $?", b"124\n"),
        ("timeout 5 true; echo $?", b"0\n"),
        ("set -m; sleep 0.1 & wait $!; echo $?", b"0\n"),
        ("sleep 5 & kill $!; wait $!; echo $?", b"143\n"),
        ("trap 'echo child' CHLD; sleep 0.1 & wait; echo end", b"child\nend\n"),
    ],
)
def test_shells_and_timeout_behave_as_bare(script: str, output: bytes) -> None:
    assert subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=False).stdout == output
    assert supervise(["/bin/sh", "-c", script], ChildSignals(), ProcessLimit(8), rules=[CLONE3]).output == output


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_the_flag_is_added_to_real_handlers_and_nothing_is_taken_away(handler: int, flags: int) -> None:
    wanted = decide_flags(handler, flags)
    if handler > 1:
        assert (flags if wanted is None else wanted) == flags | 0x1000_0000
    else:
        assert wanted is None
