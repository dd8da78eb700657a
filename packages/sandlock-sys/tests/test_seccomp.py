"""Filters are installed, judge, and are refused when they are wrong."""

from __future__ import annotations

import errno
import os
import struct
from typing import Any

import pytest

from sandlock_sys import prctl, seccomp
from sandlock_sys.constants.seccomp import Action, FilterFlag
from sandlock_sys.errors import SyscallError

pytestmark = pytest.mark.needs("seccomp", level=2)

ALLOW = struct.pack("=HBBI", 6, 0, 0, Action.ALLOW)


def test_a_filter_denies_its_call_and_no_other(in_child: Any, filter_for: Any) -> None:
    def body() -> tuple[int, int]:
        os.uname()
        prctl.set_no_new_privs()
        assert seccomp.set_mode_filter(filter_for("uname", Action.ERRNO | errno.EXDEV)) == 0
        try:
            os.uname()
        except OSError as error:
            return error.errno or 0, os.getppid()
        return 0, 0

    assert in_child(body) == (errno.EXDEV, os.getpid())


def test_a_listener_is_close_on_exec(in_child: Any) -> None:
    def body() -> bool:
        prctl.set_no_new_privs()
        listener = seccomp.set_mode_filter(ALLOW, FilterFlag.NEW_LISTENER)
        return listener > 2 and not os.get_inheritable(listener)

    assert in_child(body) is True


def test_filters_need_no_new_privs_or_a_capability(in_child: Any) -> None:
    def body() -> int:
        prctl.set_capabilities(0, 0, 0)
        try:
            seccomp.set_mode_filter(ALLOW)
        except SyscallError as error:
            return error.errno
        return 0

    assert in_child(body) == errno.EACCES


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        (b"", 0),
        (ALLOW[:-1], 0),
        (ALLOW * 4097, 0),
        (ALLOW * 65537, 0),  # its count would be 1 in 16 bits
        (struct.pack("=HBBI", 5, 0, 0, 100), 0),  # jumps out of the program
        (ALLOW, 1 << 30),
    ],
)
def test_a_wrong_program_or_flag_is_einval(in_child: Any, program: bytes, flags: int) -> None:
    def body() -> int:
        prctl.set_no_new_privs()
        seccomp.set_mode_filter(ALLOW)
        try:
            seccomp.set_mode_filter(program, flags)
        except SyscallError as error:
            return error.errno
        return 0

    assert in_child(body) == errno.EINVAL


def test_actions_and_sizes_are_known() -> None:
    assert seccomp.get_action_avail(Action.USER_NOTIF)
    assert not seccomp.get_action_avail(0x7FE0_0000)
    notif, response, data = seccomp.get_notif_sizes()
    assert (notif >= 80, response >= 24, data >= 64) == (True, True, True)
