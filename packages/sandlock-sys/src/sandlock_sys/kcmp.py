"""kcmp: whether two processes, or two descriptors, have one kernel object in common (kcmp(2), 3.5)."""

from __future__ import annotations

import enum

from sandlock_sys._call import check
from sandlock_sys._ffi import lib

__all__ = ["Resource", "compare", "compare_files"]

_FILE = 0  # KCMP_FILE, linux/kcmp.h


class Resource(enum.IntEnum):
    """What a process or thread has that another may share: KCMP_*, linux/kcmp.h, 3.5."""

    VM = 1
    FILES = 2
    FS = 3
    SIGHAND = 4
    IO = 5
    SYSVSEM = 6


def compare_files(pid: int, fd: int, other_pid: int, other_fd: int) -> int:
    """Compare the open files of two descriptors: 0 the same, 1 less, 2 greater, 3 different without an order.

    The order is the same for all files until the next boot, so that many can be sorted.

    Raises:
        SyscallError: ENOSYS (no CONFIG_KCMP), EPERM (not the caller's to trace), EBADF, ESRCH.

    """
    return check(
        "kcmp", lib.sl_kcmp(pid, other_pid, _FILE, fd, other_fd), f"fd {fd} of {pid}, fd {other_fd} of {other_pid}"
    )


def compare(tid: int, other: int, resource: Resource) -> int:
    """Compare a resource of two threads, as `compare_files` does files; 0 means that they share it."""
    return check("kcmp", lib.sl_kcmp(tid, other, resource, 0, 0), f"{resource.name} of {tid} and {other}")
