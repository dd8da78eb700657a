"""The processes of a sandbox as they are at one moment, read from /proc."""

from __future__ import annotations

import os
from errno import EACCES, ENOENT, EPERM, ESRCH
from typing import TYPE_CHECKING

from sandlock_sys import kcmp
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import parse_stat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock_notif.processes import Process, Processes

__all__ = ["between", "census", "contents", "current_call", "descends", "look", "same_memory", "threads_of"]

_CHUNK = 1 << 16
_GENERATIONS = 256  # looked at, upwards


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
    """Return the processes between the root and the sandbox's first process, which lives: an init of ours, or none."""
    found: set[int] = set()
    pid = first
    while pid != root and len(found) < 16:
        data = contents(f"/proc/{pid}/stat")
        pid = int(data[data.rindex(b")") + 2 :].split()[1])
        if pid <= 1:
            raise ProcessLookupError(ESRCH, f"process {first} does not descend from {root}")
        found.add(pid)
    return frozenset(found - {root})


def descends(folder: int, ancestor: int, root: bytes = b"..") -> bool:
    """Whether the process of a folder of /proc descends from another one, both as that /proc numbers them.

    Safety: a folder is bound to its process, a number is not. So a parent's folder is opened, and then the child is
    asked again: it has that very parent if it names it still, and the next look, into the folder, finds it alive.

    Arguments:
        folder: an fd of it; O_PATH will do.
        ancestor: number of a process that does not end meanwhile.
        root: the way from the folder to the root of its /proc.

    """
    here = os.dup(folder)
    try:
        for _ in range(_GENERATIONS):
            parent = _parent_of(here)
            if parent == ancestor or parent <= 1:  # 0: somebody whom that /proc does not show
                return parent == ancestor
            above = os.open(b"%s/%d" % (root, parent), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
            below, here = here, above
            try:
                if _parent_of(below) != parent:
                    return False
            finally:
                os.close(below)
    except OSError:  # one of them has ended
        pass
    finally:
        os.close(here)
    return False


def contents(path: str | bytes, directory: int | None = None) -> bytes:
    """Return a whole file of /proc; a relative `path` starts at `directory`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        parts = []
        while part := os.read(fd, _CHUNK):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts)


def threads_of(pid: int) -> list[int]:
    """Return the thread ids of a process. Raises ProcessLookupError when it is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except FileNotFoundError as error:
        raise ProcessLookupError(ESRCH, f"there is no process {pid}") from error


def current_call(tid: int) -> int | None:
    """Return the number of the call that a thread is blocked in, -1 when it is blocked in none, None when it runs.

    Raises:
        ProcessLookupError: there is no such thread.
        PermissionError: we may not look.

    """
    try:
        words = contents(f"/proc/{tid}/syscall").split()
    except FileNotFoundError as error:
        raise ProcessLookupError(ESRCH, f"there is no thread {tid}") from error
    except OSError as error:
        if error.errno in (EPERM, EACCES):
            raise PermissionError(EPERM, f"thread {tid} may not be looked at") from error
        raise
    if not words:
        raise ProcessLookupError(ESRCH, f"thread {tid} is ending")
    return None if words[0] == b"running" else int(words[0])


def same_memory(one: int, other: int) -> bool:
    """Tell whether two tasks share their memory; False also where that cannot be known."""
    try:
        return kcmp.compare(one, other, kcmp.Resource.VM) == 0
    except SyscallError:
        return False


def _children(pid: int) -> Iterator[int]:
    for tid in threads_of(pid):
        yield from _read_children(pid, tid)


def _read_children(pid: int, tid: int) -> list[int]:
    return [int(word) for word in contents(f"/proc/{pid}/task/{tid}/children").split()]


def _parent_of(folder: int) -> int:
    return parse_stat(contents(b"stat", folder)).ppid


def _is_zombie(pid: int) -> bool:
    """Whether every thread of a process has ended; the first one alone may have."""
    data = contents(f"/proc/{pid}/stat")
    if data[data.rindex(b")") + 2 :][:1] not in (b"Z", b"X"):
        return False
    return len(threads_of(pid)) == 1
