"""What the kernel would say in the real tree, asked before anything is copied up for an operation that it refuses."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock_cow.directories import Directory

__all__ = ["made_writable", "may", "refuse_sticky", "require", "require_writable"]


def may(directory: int, name: bytes, mode: int) -> bool:
    """Whether this user may do `mode` (R_OK | W_OK | X_OK) to the name, ACLs included; links are not followed.

    On a file system that is mounted read-only, the answer is what it would be without that: a branch over it is fine.
    """
    if os.access(name, mode, dir_fd=directory, effective_ids=True, follow_symlinks=False):
        return True
    if not mode & os.W_OK or not os.fstatvfs(directory).f_flag & os.ST_RDONLY:
        return False
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if os.geteuid() == 0:
        return True
    shift = 6 if found.st_uid == os.geteuid() else 3 if found.st_gid in (os.getegid(), *os.getgroups()) else 0
    return (found.st_mode >> shift & mode) == mode


def require(directory: int, name: bytes, mode: int) -> None:
    """EACCES unless `may`."""
    if not may(directory, name, mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def require_writable(directory: Directory) -> None:
    """EACCES unless names may be made in the directory.

    Where only the upper part counts, and it has the right owner, the kernel says so itself when the name is made. A
    directory of another user is copied up as ours: then the real one decides.
    """
    if directory.lower < 0 or os.geteuid() == 0:
        return
    if directory.upper < 0 or os.fstat(directory.lower).st_uid != os.fstat(directory.upper).st_uid:
        require(directory.lower, b".", os.W_OK | os.X_OK)


def refuse_sticky(directory: int, found: os.stat_result) -> None:
    """EPERM where a sticky directory keeps this user from removing what is `found` in it."""
    user = os.geteuid()
    above = os.fstat(directory)
    if above.st_mode & stat.S_ISVTX and user not in (0, found.st_uid, above.st_uid):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@contextmanager
def made_writable(directory: int) -> Iterator[None]:
    """Let us make names in an upper directory of ours whose mode forbids it, and give it its mode and times back.

    For what the branch does by itself (copying up), not for what a program asked to be made there.
    """
    before = os.fstat(directory)
    # Safety: the magic link leads to the pinned directory itself.
    path = f"/proc/self/fd/{directory}"
    # Root as well: who serves a program has given up its capabilities.
    closed = before.st_mode & 0o300 != 0o300
    if closed:
        os.chmod(path, stat.S_IMODE(before.st_mode) | 0o700)
    try:
        yield
    finally:
        if closed:
            os.chmod(path, stat.S_IMODE(before.st_mode))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
