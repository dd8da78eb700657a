"""The processes of a sandbox as they are at one moment: a walk of /proc from parent to child."""

from __future__ import annotations

import os
from errno import ENOENT, ESRCH
from typing import TYPE_CHECKING

from sandlock_notif.task_facts import contents, threads_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock_notif.processes import Process, Processes

__all__ = ["between", "census", "look"]


def census(processes: Processes, outside: frozenset[int]) -> tuple[set[Process], set[int]] | None:
    """Return the living processes and the ids of the zombies, or None when some came or went meanwhile: ask again.

    The walk goes from each process to the children of each of its threads. It misses a process only when that gets
    another parent at that moment, because the one it had ended; so nothing that was seen may be gone afterwards.

    Arguments:
        processes: the index; all that are found are registered. Its root is where the walk begins.
        outside: processes below the root that are not the sandbox's, from `between`.

    """
    living, dead, complete = look(processes, outside)
    same = complete and all(os.access(f"/proc/{pid}", os.F_OK) for pid in dead)
    return (living, dead) if same and all(member.alive() for member in living) else None


def look(processes: Processes, outside: frozenset[int]) -> tuple[set[Process], set[int], bool]:
    """Return the processes and zombies that one walk finds, and whether none ended under its eyes; see `census`."""
    living: set[Process] = set()
    dead: set[int] = set()
    complete = True
    pending = [processes.root]
    while pending:
        pid = pending.pop()
        try:
            for child in _children(pid):
                member = processes.get(child)
                if member is None and _is_zombie(child):
                    dead.add(child)
                    continue
                pending.append(child)
                if child not in outside:
                    living.add(member if member is not None else processes.register(child))
        except OSError as error:
            if error.errno not in (ENOENT, ESRCH):
                raise
            complete = False
    return living, dead, complete


def between(root: int, first: int) -> frozenset[int]:
    """Return the processes below the root that are ours: those above the sandbox's first, which lives, and an init."""
    found = {child for child in _children(root) if _is_init(child)}
    pid = first
    while pid != root and len(found) < 16:
        data = contents(f"/proc/{pid}/stat")
        pid = int(data[data.rindex(b")") + 2 :].split()[1])
        if pid <= 1:
            raise ProcessLookupError(ESRCH, f"process {first} does not descend from {root}")
        found.add(pid)
    return frozenset(found - {root})


def _is_init(pid: int) -> bool:
    """Whether it is the first process of a pid namespace below the reader's, where no program can make another."""
    line = next(line for line in contents(f"/proc/{pid}/status").splitlines() if line.startswith(b"NSpid:"))
    numbers = line.split()[1:]
    return len(numbers) > 1 and numbers[-1] == b"1"


def _children(pid: int) -> Iterator[int]:
    for tid in threads_of(pid):
        yield from _read_children(pid, tid)


def _read_children(pid: int, tid: int) -> list[int]:
    return [int(word) for word in contents(f"/proc/{pid}/task/{tid}/children").split()]


def _is_zombie(pid: int) -> bool:
    """Whether every thread of a process has ended; the first one alone may have."""
    data = contents(f"/proc/{pid}/stat")
    if data[data.rindex(b")") + 2 :][:1] not in (b"Z", b"X"):
        return False
    return len(threads_of(pid)) == 1
