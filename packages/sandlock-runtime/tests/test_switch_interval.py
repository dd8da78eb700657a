"""The interpreter's switch interval is short while a sandbox is served, and the host's own choice stays."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from runtime_lab import box

from sandlock_runtime import Sandbox
from sandlock_runtime.switch_interval import SERVING_S, short_switches

USUAL_S = 0.005
SERVED = pytest.mark.needs("seccomp", level=2)


@pytest.fixture(autouse=True)
def _usual() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(USUAL_S)
    yield
    sys.setswitchinterval(before)


def served() -> Sandbox:
    return box(max_processes=5)


@SERVED
def test_it_is_short_while_something_is_served_and_as_before_afterwards() -> None:
    first, second = served().popen(["sleep", "60"]), served().popen(["sleep", "60"])
    with first:
        with second:
            assert sys.getswitchinterval() == SERVING_S
        second.kill()
        assert sys.getswitchinterval() == SERVING_S  # the first is still served
    assert sys.getswitchinterval() == USUAL_S


def test_a_sandbox_that_only_the_kernel_holds_leaves_it_alone() -> None:
    with box().popen(["sleep", "60"]):
        assert sys.getswitchinterval() == USUAL_S


@SERVED
def test_a_launch_that_fails_gives_it_back() -> None:
    assert served().run(["false"]).exit_code == 1
    with pytest.raises(OSError, match="no-such-program"):
        served().run(["/no-such-program"])
    assert sys.getswitchinterval() == USUAL_S


def test_what_the_host_chose_before_stays() -> None:
    sys.setswitchinterval(0.002)
    with short_switches():
        assert sys.getswitchinterval() == 0.002
    assert sys.getswitchinterval() == 0.002


def test_what_the_host_chose_meanwhile_stays() -> None:
    with short_switches():
        sys.setswitchinterval(0.001)
    assert sys.getswitchinterval() == 0.001


def test_it_is_given_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), short_switches():
        raise ZeroDivisionError
    assert sys.getswitchinterval() == USUAL_S
