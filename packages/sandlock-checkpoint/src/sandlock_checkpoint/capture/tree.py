"""Stop a process and everything below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENOENT, ESRCH

from sandlock_arch import Architecture
from sandlock_checkpoint.capture.stop import StoppedProcess, stop_process
from sandlock_checkpoint.errors import CaptureError
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import list_tasks, read_children, read_stat

__all__ = ["Member", "children_of", "stop_tree"]

_DEAD = {"Z", "X"}


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the tree: stopped, or None for a zombie; `parent` is its parent's number, -1 for the first."""

    pid: int
    parent: int
    stopped: StoppedProcess | None


def stop_tree(
    pid: int, architecture: Architecture, timeout_s: float, into: list[Member], interrupted: set[int] | None = None
) -> None:
    """Stop a process and all below it, parents before their children, and add each to `into` as soon as it is stopped.

    A stopped process makes no children. So below a parent that is stopped the list is final, but for those that end:
    they stay as zombies, because the parent cannot wait for them.

    Raises:
        CaptureError: one cannot be stopped. What is in `into` is stopped, and the caller's to let go.

    """
    into.append(Member(pid, -1, stop_process(pid, architecture, timeout_s, interrupted)))
    known = {pid}
    at = 0
    while at < len(into):
        for child in children_of(into[at].pid) if into[at].stopped else ():
            if child in known:
                continue
            known.add(child)
            stopped = None
            if not _ended(child):
                try:
                    stopped = stop_process(child, architecture, timeout_s, interrupted)
                except CaptureError:
                    if not _ended(child):
                        raise
            into.append(Member(child, at, stopped))
        at += 1


def _ended(pid: int) -> bool:
    try:
        return read_stat(pid).state in _DEAD
    except SyscallError as error:
        if error.errno in {ENOENT, ESRCH}:
            return True
        raise


def children_of(pid: int) -> list[int]:
    """Return the children of a process, of whichever of its threads, in increasing order."""
    try:
        found = {child for tid in list_tasks(pid) for child in read_children(pid, tid)}
    except SyscallError as error:
        if error.errno != ENOENT:
            raise
        found = set(_by_scanning(pid))  # no CONFIG_PROC_CHILDREN
    return sorted(found)


def _by_scanning(parent: int) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if read_stat(int(name)).ppid == parent:
                    yield int(name)
            except SyscallError as error:
                if error.errno not in {ENOENT, ESRCH}:
                    raise
