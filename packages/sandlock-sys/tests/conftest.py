"""What the kernel tests share: work in a forked child, filters of a few instructions, system call numbers."""

from __future__ import annotations

import os
import pickle
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pytest

sys.path.insert(0, os.path.dirname(__file__))  # pytest's importlib mode adds no folder: launch_lab.py is beside this

# The system calls that these tests trap or deny, by machine.
SAME = {
    "pidfd_open": 434,
    "clone3": 435,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_restrict_self": 446,
}
NUMBERS = {
    "x86_64": SAME
    | {"getppid": 110, "uname": 63, "openat": 257, "userfaultfd": 323, "memfd_create": 319, "ptrace": 101}
    | {"process_vm_readv": 310, "unshare": 272, "mount": 165, "fsopen": 430, "getpriority": 140},
    "generic": SAME
    | {"getppid": 173, "uname": 160, "openat": 56, "userfaultfd": 282, "memfd_create": 279, "ptrace": 117}
    | {"process_vm_readv": 270, "unshare": 97, "mount": 40, "fsopen": 430, "getpriority": 141},
}


class InChild(Protocol):
    def __call__(self, function: Callable[[], Any]) -> Any: ...


class FilterFor(Protocol):
    def __call__(self, call: str, action: int) -> bytes: ...


@pytest.fixture
def in_child() -> InChild:
    """Run a function in a forked child and return its value; its exception fails the test."""

    def run(function: Callable[[], Any]) -> Any:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            answer: tuple[bool, Any]
            try:
                answer = True, function()
            except BaseException:  # noqa: BLE001 - the child must never return into pytest
                answer = False, traceback.format_exc()
            os.write(writer, pickle.dumps(answer))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            data = stream.read()
        _, status = os.waitpid(pid, 0)
        if not data:
            pytest.fail(f"the child ended without an answer: {os.waitstatus_to_exitcode(status)}")
        fine, value = pickle.loads(data)  # noqa: S301 - written by this very file's child
        if not fine:
            pytest.fail(f"in the child:\n{value}")
        return value

    return run


@contextmanager
def child_process(body: Callable[[], object]) -> Iterator[int]:
    """A forked child that runs `body`, killed and reaped at the end."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException:  # noqa: BLE001 - the child must never return into pytest
            traceback.print_exc(file=sys.stderr)
            sys.stderr.flush()
            os._exit(99)
        os._exit(0)
    try:
        yield pid
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # the test has reaped it


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A child that sleeps; its pid."""
    with child_process(lambda: time.sleep(60)) as pid:
        yield pid


@pytest.fixture
def child() -> Callable[[Callable[[], object]], Any]:
    """`with child(body) as pid:` a forked child, killed and reaped at the end."""
    return child_process


@pytest.fixture
def numbers() -> dict[str, int]:
    """System call numbers of this machine."""
    machine = os.uname().machine
    return NUMBERS["x86_64" if machine == "x86_64" else "generic"]


@pytest.fixture
def filter_for(numbers: dict[str, int]) -> FilterFor:
    """Make a filter that answers one system call with an action and allows all others."""

    def make(call: str, action: int) -> bytes:
        instructions = [
            (0x20, 0, 0, 0),  # load the number
            (0x15, 0, 1, numbers[call]),  # jump if equal
            (0x06, 0, 0, action),
            (0x06, 0, 0, 0x7FFF0000),  # allow
        ]
        return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)

    return make


@pytest.fixture
def open_fds() -> Callable[[], set[int]]:
    """The fds that are open now."""

    def listing() -> set[int]:
        found = set()
        for name in os.listdir("/proc/self/fd"):
            try:
                os.fstat(int(name))
            except OSError:
                continue  # the one that listed them
            found.add(int(name))
        return found

    return listing
