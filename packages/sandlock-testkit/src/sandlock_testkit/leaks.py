"""The fixture `leaks`: a test must leave no fd, thread or child process behind.

A suite opts in with `pytestmark = pytest.mark.usefixtures("leaks")`.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Holdings", "leaks"]

_SETTLE_S = 2.0  # a thread that was told to end, or a child just killed, may still be on its way out


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this process holds: fds with their targets, threads and children with their names."""

    fds: frozenset[tuple[int, str]]
    threads: frozenset[tuple[int, str]]
    children: frozenset[tuple[int, str]]

    @classmethod
    def now(cls) -> Holdings:
        """Look at /proc; zombies that nobody reaped count as children."""
        return cls(frozenset(_fds()), frozenset(_threads()), frozenset(_children()))

    def beyond(self, base: Holdings) -> list[str]:
        """One line for each thing held here that `base` did not hold."""
        return (
            [f"fd {number} -> {target}" for number, target in sorted(self.fds - base.fds)]
            + [f"thread {tid} ({name})" for tid, name in sorted(self.threads - base.threads)]
            + [f"child {pid} ({name})" for pid, name in sorted(self.children - base.children)]
        )


# Made by launches and kept by the process: the sealed copy of the guard program, and two network namespaces, each with
# the user namespace that it belongs to.
_KEPT = {"/memfd:sandlock-guard": 1, "net:[": 2, "user:[": 2}


def _fds() -> Iterator[tuple[int, str]]:
    left = dict(_KEPT)
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the fd of the listing itself
            continue
        kind = next((start for start in left if target.startswith(start)), None)
        if kind is None or not left[kind]:
            yield int(name), target
        else:
            left[kind] -= 1


def _threads() -> Iterator[tuple[int, str]]:
    """Kernel threads of this process: a C thread that Python does not know of counts too."""
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    for name in os.listdir("/proc/self/task"):
        yield int(name), known.get(int(name), "not Python's")


def _children() -> Iterator[tuple[int, str]]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="surrogateescape") as file:
                comm, _, rest = file.read().rpartition(")")  # a comm may itself hold spaces and parentheses
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent = rest.split()[:2]
        if int(parent) == os.getpid():
            yield int(name), comm.partition("(")[2] + (", zombie" if state == "Z" else "")


@pytest.fixture
def leaks() -> Iterator[Holdings]:
    """Fail the test at its end if it holds more than at its start; the value is what was held at the start."""
    base = Holdings.now()
    yield base
    deadline = time.monotonic() + _SETTLE_S
    while (left := Holdings.now().beyond(base)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, "the test left behind: " + "; ".join(left)
