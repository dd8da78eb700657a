"""What /proc and kcmp(2) say of one process or thread."""

from __future__ import annotations

import os
from errno import EACCES, EPERM, ESRCH

from sandlock_sys import kcmp
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import parse_stat

__all__ = ["contents", "current_call", "descends", "same_memory", "threads_of"]

_CHUNK = 1 << 16
_GENERATIONS = 256  # looked at, upwards


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


def _parent_of(folder: int) -> int:
    return parse_stat(contents(b"stat", folder)).ppid
