"""However the host ends, nothing of its sandboxes outlives it (NOT-17)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from launch_lab import alive_with, host, new_mark, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock_testkit.outsider import Outsider

pytestmark = pytest.mark.usefixtures("leaks")

WAYS = pytest.mark.parametrize(
    "fields",
    ["", ", scoped=False", ", flags=32", ", park=True", ", park=True, flags=32"],
    ids=["scoped", "walking", "own-memory", "parked", "parked-own-memory"],
)
LAUNCH = """
mark = sys.argv[1]
daemon = f"(setsid sh -c 'sleep 600 {{mark}} & exec sleep 600 {{mark}}' >/dev/null 2>&1 &); exec sleep 600 {{mark}}"
argv = ["sh", "-c", daemon, mark]
sandbox = launched(argv, stdio=(0, os.dup(2), 2){fields})
sandbox.__enter__()
{then}
"""
READY = "print('ready', flush=True)\ntime.sleep(600)"
GONE_WITHIN_S = 1.0


@pytest.fixture
def mark() -> Iterator[str]:
    """Nobody may have it when the test ends; who has is killed."""
    word = new_mark()
    yield word
    wait_until(lambda: not alive_with(word), GONE_WITHIN_S)  # a process in the middle of its exec has no arguments
    left = alive_with(word)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def start(mark: str, fields: str, then: str = READY, **options: object) -> subprocess.Popen[str]:
    return host(LAUNCH.format(fields=fields, then=then), mark, **options)


def sandboxed(mark: str, process: subprocess.Popen[str]) -> list[int]:
    return [pid for pid in alive_with(mark) if pid != process.pid]


def gone(mark: str, process: subprocess.Popen[str]) -> bool:
    """Whether all of the sandbox is gone in time; the host has the mark itself."""
    return wait_until(lambda: not sandboxed(mark, process), GONE_WITHIN_S)


def is_up(mark: str, fields: str, process: subprocess.Popen[str]) -> bool:
    """Whether the program and its two daemons run, or the child is parked."""
    if "park" not in fields:
        return wait_until(lambda: len(sandboxed(mark, process)) >= 3)
    # Before its exec it still has the host's command line.
    return wait_until(lambda: len(sandboxed(mark, process)) >= 1)


@WAYS
@pytest.mark.parametrize("after", [0.0, 0.05], ids=["young", "old"])
def test_not_17_a_host_that_is_killed(mark: str, fields: str, after: float, outsider: Outsider) -> None:
    with start(mark, fields) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert is_up(mark, fields, process)
        time.sleep(after)
        process.kill()
        process.wait()
        assert gone(mark, process)
    assert outsider.alive()


@WAYS
def test_a_host_that_is_killed_the_moment_its_launch_returns(mark: str, fields: str) -> None:
    """The guard may not have looked at its host yet: it must not take whoever adopted it for the host."""
    for _ in range(5):
        with start(mark, fields, "os.write(1, b'launched')\nos.kill(os.getpid(), 9)") as process:
            assert process.communicate()[0] == "launched"
            assert gone(mark, process)


@WAYS
def test_a_host_that_executes_another_program(mark: str, fields: str) -> None:
    with start(
        mark, fields, "print('ready', flush=True)\ntime.sleep(0.1)\nos.execv('/bin/sleep', ['sleep', '600'])"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert is_up(mark, fields, process)
        assert wait_until(lambda: os.readlink(f"/proc/{process.pid}/exe") != os.readlink("/proc/self/exe"))
        assert gone(mark, process)
        process.kill()


@WAYS
def test_a_host_that_closes_the_control_socket(mark: str, fields: str) -> None:
    with start(
        mark, fields, "print('ready', flush=True)\ntime.sleep(0.1)\nos.closerange(3, 100)\ntime.sleep(600)"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert is_up(mark, fields, process)
        time.sleep(0.1)
        assert gone(mark, process)
        assert process.poll() is None
        process.kill()


@WAYS
def test_the_whole_process_group_of_the_host_is_killed(mark: str, fields: str) -> None:
    """As a shell or a service manager does it: the guard must not be in that group, or nobody is left to clean up."""
    with start(mark, fields, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert is_up(mark, fields, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert gone(mark, process)


@WAYS
def test_a_host_that_exits(mark: str, fields: str) -> None:
    with start(mark, fields, "print('ready', flush=True)\ntime.sleep(0.05)\nos._exit(0)") as process:
        assert process.communicate()[0] == "ready\n"
        assert gone(mark, process)


def test_a_forked_child_of_the_host_does_not_keep_the_sandbox(mark: str) -> None:
    """It holds a copy of the control socket, so only the end of the process itself tells."""
    then = "if os.fork() == 0:\n    time.sleep(1.5)\n    os._exit(0)\n" + READY
    with start(mark, "", then) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert is_up(mark, "", process)
        forked = [pid for pid in alive_with(mark) if pid != process.pid and parent_of(pid) == process.pid]
        process.kill()
        process.wait()
        assert wait_until(lambda: set(sandboxed(mark, process)) <= set(forked), GONE_WITHIN_S)
        assert wait_until(lambda: not sandboxed(mark, process), 5)


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])
