"""Stop a process and everything below it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import ENOENT, ESRCH
from functools import partial

from sandlock_arch import Architecture
from sandlock_checkpoint.capture.stop import StoppedProcess, stop_process
from sandlock_checkpoint.errors import CaptureError
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import list_tasks, read_children, read_stat

__all__ = ["Member", "children_of", "stop_tree"]

_DEAD = {"Z", "X"}
_READINGS = 1000  # of one list; each child that ends makes another
_RESTLESS_S = 10.0  # for how long new ones are looked for


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

    A stopped process makes no children. But it may be given some: when a process ends that still runs, those below it
    become children of one further up (PR_SET_CHILD_SUBREAPER), which may have been asked for its children before. And
    some who end are buried by nobody. So all are asked again, each before whoever is above it, until there is nobody
    new: who moves up meanwhile meets one who has not been asked yet.

    Raises:
        CaptureError: one cannot be stopped, or there are always new ones. What is in `into` is stopped, and the
            caller's to let go.

    """
    stop = partial(stop_process, architecture=architecture, timeout_s=timeout_s, interrupted=interrupted)
    into.append(Member(pid, -1, stop(pid)))
    known = {pid}
    deadline = time.monotonic() + _RESTLESS_S
    at = 0
    while at < len(into):
        while at < len(into):
            _stop_below(at, into, known, stop)
            at += 1
        for again in reversed(range(at)):
            _stop_below(again, into, known, stop)
        if at < len(into) and time.monotonic() > deadline:
            raise CaptureError(pid, f"below it new processes are made all the time, {len(known)} so far")


def _stop_below(at: int, into: list[Member], known: set[int], stop: Callable[[int], StoppedProcess]) -> None:
    """Stop the children of a member that nobody knew, and what is below them."""
    for child in children_of(into[at].pid) if into[at].stopped else ():
        if child in known:
            continue
        known.add(child)
        stopped = None
        if not _ended(child):
            try:
                stopped = stop(child)
            except CaptureError:
                if not _ended(child):
                    raise
        into.append(Member(child, at, stopped))


def _ended(pid: int) -> bool:
    try:
        return read_stat(pid).state in _DEAD
    except SyscallError as error:
        if error.errno in {ENOENT, ESRCH}:
            return True
        raise


def children_of(pid: int) -> list[int]:
    """Return the children of a process, of whichever of its threads, in increasing order.

    The kernel may leave one out of a list while another is taken from it, where nobody waits for those that end. So it
    is read until it says the same twice.

    Raises:
        CaptureError: it never does.

    """
    found = _read_once(pid)
    for _ in range(_READINGS):
        before, found = found, _read_once(pid)
        if found == before:
            return found
    raise CaptureError(pid, "its children end all the time")


def _read_once(pid: int) -> list[int]:
    """Read the children of each thread; the main one, to which others' children go, is asked last: see `stop_tree`."""
    try:
        found = {child for tid in sorted(list_tasks(pid), key=pid.__eq__) for child in read_children(pid, tid)}
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
