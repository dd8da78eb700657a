"""What the tests of the runtime share: a sandbox that can run system programs, work in a forked child, waiting."""

from __future__ import annotations

import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from sandlock_runtime import Sandbox

__all__ = [
    "OLD_LANDLOCK",
    "PYTHON",
    "SYSTEM",
    "box",
    "in_child",
    "is_alive",
    "line_of",
    "number_here",
    "state_of",
    "threads_named",
    "wait_until",
]

# The interpreter itself, not the virtual environment's link to it: without `site` it reads the standard library only.
PYTHON = [os.path.realpath(sys.executable), "-I", "-S", "-c"]
SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "-/etc/passwd", "/dev/null", sys.base_prefix]

# What a test without namespaces gives up by name where the kernel's Landlock is older than ABI 6, 5 and 3 (Linux 6.1).
OLD_LANDLOCK = ["scope_signal", "fs_ioctl_dev", "fs_truncate"]


def box(**fields: Any) -> Sandbox:
    """A sandbox in which shell and Python run; `fs_readable` adds to what these need."""
    readable = [*SYSTEM, *fields.pop("fs_readable", ())]
    return Sandbox(fs_readable=readable, **fields)


def in_child(function: Callable[[], Any]) -> Any:
    """Run a function in a forked child and return its value; its exception fails the test."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer: tuple[bool, Any]
        try:
            writer = os.dup2(writer, 200, inheritable=False)  # out of the way of a function that closes fds
            answer = True, function()
        except BaseException:  # noqa: BLE001 - the child must never return into pytest
            answer = False, traceback.format_exc()
        os.write(writer, pickle.dumps(answer))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    _, status = os.waitpid(pid, 0)
    assert data, f"the child ended without an answer: {os.waitstatus_to_exitcode(status)}"
    fine, value = pickle.loads(data)  # noqa: S301 - written by this very file's child
    assert fine, f"in the child:\n{value}"
    return value


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait until `condition()` is true; fail after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def state_of(pid: int) -> str:
    """The state letter of a process as in proc_pid_stat(5); "" when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return state_of(pid) not in {"", "Z", "X"}


def number_here(inside: int, first: int) -> int:
    """The pid of the process that calls itself `inside`, in the sandbox whose first process has the pid `first`.

    They differ in a PID namespace, which sandboxes have where Landlock does not know signals (before ABI 6).
    """
    own = os.readlink(f"/proc/{first}/ns/pid")
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{name}/ns/pid") != own:
                continue
            with open(f"/proc/{name}/status") as file:
                numbers = next(line for line in file if line.startswith("NSpid:")).split()
        except (OSError, StopIteration):  # ended, or another user's
            continue
        if int(numbers[-1]) == inside:
            return int(name)
    raise ProcessLookupError(f"nobody is {inside} in the sandbox of {first}")


def line_of(stream: Any) -> str:
    """The next line of a pipe, as text."""
    assert stream is not None
    return bytes(stream.readline()).decode().strip()


def threads_named(name: str) -> int:
    """How many threads of this process Python knows by `name`."""
    import threading

    return sum(thread.name == name for thread in threading.enumerate())
