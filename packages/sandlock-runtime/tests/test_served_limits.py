"""Limits of the whole tree, through the public API: processes, memory."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from sandlock_runtime import Result, Sandbox

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("landlock", level=1)]

SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache"]


def python(code: str, more: list[str] | None = None, **fields: Any) -> Result:
    return Sandbox(fs_readable=[*SYSTEM, *(more or [])], **fields).run(
        ["/usr/bin/python3", "-I", "-S", "-c", code], timeout=30
    )


@pytest.mark.parametrize("more", [[], ["/proc"]], ids=["", "pid namespace"])
def test_pr_07_no_more_processes_than_allowed_and_room_again_after_an_end(more: list[str]) -> None:
    code = """
import os, time
def fork():
    try:
        pid = os.fork()
    except OSError as error:
        return -error.errno
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    return pid
children = [fork() for _ in range(6)]
print([pid > 0 for pid in children], min(children))
os.kill(children[0], 9); os.waitpid(children[0], 0)
print(fork() > 0, fork())
"""
    result = python(code, max_processes=4, more=more)
    first = [True] * 3 + [False] * 3
    assert result.stdout.decode() == f"{first} -11\nTrue -11\n"
    assert [(denial.errno, denial.count) for denial in result.denials] == [(11, 4)]


def test_the_one_that_takes_too_much_is_killed_and_the_result_says_so() -> None:
    result = python("x = bytearray(b'x' * (300 << 20)); print('alive')", max_memory="100M")
    assert (result.reason, result.signal, result.success, result.stdout) == ("MEMORY", 9, False, b"")


def test_a_callback_lowers_the_limits_of_what_runs_and_never_raises_them() -> None:
    lowered: list[str] = []

    def decide(event: Any, context: Any) -> None:
        for word, lower in (("few", context.restrict_max_processes), ("small", context.restrict_max_memory)):
            if event.argv_contains(word):
                lower({"few": 2, "small": 100 << 20}[word])
                lower(1 << 40)  # wider than before: nothing
                lowered.append(word)

    code = """
import os
def fork():
    try:
        pid = os.fork()
    except OSError as error:
        return -error.errno
    if pid == 0:
        os.execv("/bin/sleep", ["sleep", "30"])
    return pid
def tell(word):
    if (pid := os.fork()) == 0:
        os.execv("/bin/true", ["true", word])
    os.waitpid(pid, 0)
x = bytearray(b'x' * (200 << 20)); del x
child = fork(); print(child > 0, flush=True)
tell("f" "ew"); print(fork(), flush=True)
os.kill(child, 9); os.waitpid(child, 0)
tell("sm" "all")
x = bytearray(b'x' * (200 << 20)); print("alive")
"""
    result = python(code, max_processes=10, max_memory="500M", policy_fn=decide)
    assert lowered == ["few", "small"], result
    assert (result.stdout, result.reason) == (b"True\n-11\n", "MEMORY")


def test_what_stays_below_its_memory_is_left_alone() -> None:
    result = python("x = bytearray(b'x' * (50 << 20)); print('alive')", max_memory="150M")
    assert (result.reason, result.stdout) == ("EXITED", b"alive\n")


def test_the_rest_of_the_tree_goes_on_without_the_offender() -> None:
    code = """
import os
if os.fork() == 0:
    x = bytearray(b'x' * (300 << 20)); os._exit(0)
print(os.wait()[1])
"""
    result = python(code, max_memory="100M")
    assert (result.reason, result.exit_code, result.stdout) == ("MEMORY", 0, b"9\n")


def test_served_sandboxes_leave_no_fd_and_no_thread() -> None:
    python("print(1)", max_memory="1G", max_processes=50)
    time.sleep(0.2)
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(20):
        assert python("print(1)", max_memory="1G", max_processes=50).success
    time.sleep(0.2)
    assert len(os.listdir("/proc/self/fd")) <= fds
    assert threading.active_count() <= threads
