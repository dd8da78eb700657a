"""The end of a sandbox: all of it is gone when run() returns, whatever it did to stay (security.md, section 5)."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from attack_lab import Box, World, alive_with, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_testkit.outsider import Outsider

pytestmark = pytest.mark.usefixtures("leaks")


@pytest.mark.every_abi
@pytest.mark.parametrize("kind", ["daemon", "family", "holder"])
def test_pr_05_pr_06_nothing_is_alive_at_the_moment_run_returns(
    box: Box, mark: str, kind: str, outsider: Outsider
) -> None:
    control = subprocess.Popen([box.program("outlive"), "daemon", mark, "2"])
    assert control.wait() == 7
    left = alive_with(mark)
    assert left, "bare, the daemon outlives its parent"
    for pid in left:
        os.kill(pid, 9)
    while alive_with(mark):
        time.sleep(0.01)

    started = time.monotonic()
    result = box.inside("outlive", kind, mark, "15")
    assert alive_with(mark) == {}
    assert time.monotonic() - started < 5
    assert (reason_of(result), result.exit_code) == ("EXITED", 7)
    assert outsider.alive()


@pytest.mark.every_abi
@pytest.mark.parametrize("kind", ["stubborn", "comet", "family"])
def test_pr_05_the_timeout_ends_the_whole_tree(box: Box, mark: str, kind: str, outsider: Outsider) -> None:
    shell = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", os.path.dirname(box.program("outlive"))]
    script = f'"{box.program("outlive")}" {kind} {mark} 15; while :; do sleep 0.1; done # {mark}'
    started = time.monotonic()
    result = box.inside("/bin/sh", "-c", script, fs_readable=shell, timeout=0.7, grace=0.3)
    took = time.monotonic() - started
    assert alive_with(mark) == {}
    assert reason_of(result) == "TIMEOUT"
    assert not result.success
    assert 0.6 < took < 14  # of 15: who walks for it races with every fork
    assert outsider.alive()


@pytest.mark.every_abi
@pytest.mark.usefixtures("alone")
def test_pr_07_comets_do_not_slip_through_the_kill(box: Box, mark: str, outsider: Outsider) -> None:
    for _ in range(3):
        result = box.inside("outlive", "comet", mark, "15", timeout=0.3)
        assert reason_of(result) == "TIMEOUT"
        assert alive_with(mark) == {}
    assert outsider.alive()


@pytest.mark.needs("ordinary_user")
def test_pr_07_a_fork_bomb_is_bounded_by_the_limit_and_ended_by_the_timeout(box: Box, mark: str) -> None:
    """RLIMIT_NPROC binds ordinary users; the limit is inherited from us, as a service manager would set it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    ours = len(
        subprocess.run(
            ["ps", "-u", str(os.getuid()), "-L", "-o", "pid="], capture_output=True, check=False
        ).stdout.split()
    )
    resource.setrlimit(resource.RLIMIT_NPROC, (ours + 150, hard))
    try:
        started = time.monotonic()
        result = box.inside("outlive", "bomb", mark, "15", timeout=1)
        assert reason_of(result) == "TIMEOUT"
        assert time.monotonic() - started < 8
        assert b"bomb -1 11" in result.stdout, "the bomb met EAGAIN"
        assert alive_with(mark) == {}
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))


@pytest.mark.parametrize("how", ["kill", "context", "terminate"])
def test_pr_05_a_handle_that_is_left_leaves_nothing(box: Box, mark: str, how: str) -> None:
    with box.sandbox() as sandbox:
        process = sandbox.popen([box.program("outlive"), "family", mark, "15", "stay"], stdout=subprocess.DEVNULL)
        if how == "kill":
            process.kill()
            process.wait(timeout=5)
            assert alive_with(mark) == {}
        elif how == "terminate":
            process.terminate()
            process.wait(timeout=5)
            assert alive_with(mark) == {}
    assert alive_with(mark) == {}


def test_pr_05_an_exception_in_the_context_leaves_nothing(box: Box, mark: str) -> None:
    with pytest.raises(ZeroDivisionError), box.sandbox() as sandbox:
        sandbox.popen([box.program("outlive"), "stubborn", mark, "15"], stdout=subprocess.DEVNULL)
        raise ZeroDivisionError
    assert alive_with(mark) == {}


@pytest.mark.every_abi
def test_pr_19_a_process_beside_the_program_does_not_answer_for_it(box: Box) -> None:
    """CLONE_PARENT makes a process whose parent is the guard: its status is not the program's."""
    beside = box.bare_lines("evade", "parent", "42")["clone_parent"].result
    assert os.waitstatus_to_exitcode(os.waitpid(beside, 0)[1]) == 42, "bare, it is a child of ours"
    result = box.inside("evade", "parent", "42")
    assert b"clone_parent" in result.stdout
    assert (reason_of(result), result.exit_code) == ("EXITED", 0)


def test_pr_19_a_stop_is_no_end(box: Box) -> None:
    result = box.inside("outlive", "stop", timeout=0.5)
    assert reason_of(result) == "TIMEOUT"
    assert b"went_on" not in result.stdout


def test_pr_19_a_traced_stop_is_no_end_either(box: Box) -> None:
    result = box.inside("evade", "traceme", timeout=0.5, extra_allow_syscalls=["ptrace"])
    assert reason_of(result) == "TIMEOUT"


@pytest.mark.parametrize("number", [1, 6, 9, 11, 15, 31, 34, 64])
def test_pr_19_a_signal_is_told_as_a_signal(box: Box, number: int) -> None:
    shell = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"]
    result = box.inside("/bin/sh", "-c", f"kill -{number} $$", fs_readable=shell)
    assert result.signal == number
    assert result.exit_code == -1
    assert reason_of(result) == ("DENIED" if number == 31 else "SIGNALED"), "SIGSYS is what the filter kills with"
    assert not result.success


@pytest.mark.parametrize("code", [0, 1, 2, 124, 125, 126, 127, 128, 137, 255])
def test_pr_19_a_status_is_told_as_it_is(box: Box, code: int) -> None:
    result = box.inside(
        "/bin/sh", "-c", f"exit {code}", fs_readable=["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"]
    )
    assert (reason_of(result), result.exit_code, result.signal) == ("EXITED", code, result.signal)
    assert not result.signal
    assert result.success == (code == 0)


def test_a_thread_that_outlives_the_first_thread_is_waited_for(box: Box, mark: str) -> None:
    result = box.inside("outlive", "leaderless", mark, "1")
    assert b"second_thread" in result.stdout
    assert result.exit_code == 0


def test_orphans_are_reaped_while_the_program_runs(box: Box) -> None:
    result = box.inside("outlive", "orphans", "300")
    assert result.exit_code == 0
    assert b"orphans 300" in result.stdout


def test_one_live_process_for_one_object(box: Box) -> None:
    from sandlock import SandboxBusyError

    with box.sandbox() as sandbox:
        process = sandbox.popen([box.program("outlive"), "stop"], stdout=subprocess.DEVNULL)
        with pytest.raises(SandboxBusyError):
            sandbox.run([box.program("who")])
        process.kill()
        process.wait(timeout=5)
        assert sandbox.run([box.program("who")]).success, "the object is free again"


def test_launching_thread_may_end_before_the_sandbox(box: Box, mark: str) -> None:
    """PR_SET_PDEATHSIG follows the thread that forked: a sandbox must not die with it."""
    made = []
    with box.sandbox() as sandbox:
        thread = threading.Thread(
            target=lambda: made.append(
                sandbox.popen([box.program("outlive"), "stubborn", mark, "15"], stdout=subprocess.PIPE)
            )
        )
        thread.start()
        thread.join()
        time.sleep(0.2)
        assert alive_with(mark)
        assert made[0].poll() is None
        made[0].kill()
        made[0].communicate(timeout=5)


def test_a_signal_to_the_group_of_the_host_is_not_for_the_guard(
    box: Box, mark: str, program: Callable[[str], str], world: World
) -> None:
    """Control-C at a terminal goes to the whole foreground group; the guard must stay to clean up."""
    script = (
        "import os, signal, sys, json, threading\n"
        "sys.path[:0] = json.loads(os.environ['TEST_PATHS'])\n"
        "from sandlock import Sandbox\n"
        "signal.signal(signal.SIGINT, lambda *a: None)\n"
        "threading.Timer(0.4, lambda: os.killpg(0, signal.SIGINT)).start()\n"
        "r = Sandbox(**json.loads(sys.argv[1])).run(json.loads(sys.argv[2]), timeout=1.5)\n"
        "print(getattr(r.reason, 'name', r.reason))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(box.fields()), json.dumps([program("outlive"), "family", mark, "9"])],
        env={**os.environ, "TEST_PATHS": json.dumps([os.path.dirname(__file__), *sys.path])},
        capture_output=True, text=True, timeout=30, check=False, start_new_session=True,
    )  # fmt: skip
    assert done.stdout.strip().upper() == "EXITED", done.stderr
    assert alive_with(mark) == {}
