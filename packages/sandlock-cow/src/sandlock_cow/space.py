"""How many bytes a branch holds, and how many it may."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat

from sandlock_cow.errors import BranchQuotaError
from sandlock_cow.model import Usage
from sandlock_cow.walking import walk

__all__ = ["INODE_COST", "Space", "cost"]

INODE_COST = 512  # what one entry costs beside its blocks, so that a million empty files are not free
_WATCHED_MOST = 64


def cost(found: os.stat_result) -> int:
    """Bytes charged for one object."""
    return found.st_blocks * 512 + INODE_COST  # st_blocks counts 512-byte units everywhere: stat(2)


def _has_writers(path_only: int) -> bool:
    """Whether anybody has the file open for writing; True where the kernel does not tell.

    A read lease is granted only where nobody has (fcntl(2), F_SETLEASE). It is given back at once; should somebody open
    the file in that moment, the notice is a signal that nobody dies of.
    """
    try:
        fd = os.open(f"/proc/self/fd/{path_only}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE):
            raise
        return True
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EINVAL, errno.EPERM):
            raise
        return True
    finally:
        os.close(fd)
    return False


class Space:
    """The books of a branch with a quota: what each inode is charged with, and which files may still be growing.

    A file that was opened for writing is watched through an O_PATH fd, also when it has no name any more, and looked at
    on every count, until nobody has it open for writing. Without a quota nothing is booked: a count is a walk.
    """

    def __init__(self, upper: int, quota: int | None) -> None:
        if quota is not None and quota < 0:
            raise ValueError(f"a quota of {quota} bytes")
        self.quota = quota
        self._upper = upper
        self._charged: dict[int, int] = {}  # by inode number
        self._total = 0
        self._entries = 0
        self._watched: dict[int, int] = {}  # inode number to fd
        self._settled_at = _WATCHED_MOST
        if quota is not None:
            self._recount()

    def added(self, found: os.stat_result) -> None:
        """A name with these attributes came into the upper layer."""
        if self.quota is not None:
            self._entries += 1
            self._charge(found)

    def changed(self, found: os.stat_result) -> None:
        """An object that is in the upper layer has these attributes now."""
        if self.quota is not None:
            self._charge(found)

    def _charge(self, found: os.stat_result) -> None:
        price = cost(found)
        self._total += price - self._charged.get(found.st_ino, 0)
        self._charged[found.st_ino] = price

    def removed(self, found: os.stat_result) -> None:
        """A name with these attributes (as they were before) left the upper layer."""
        if self.quota is None:
            return
        self._entries -= 1
        last = found.st_nlink <= 1 or stat.S_ISDIR(found.st_mode)
        if last and found.st_ino not in self._watched:
            self._total -= self._charged.pop(found.st_ino, 0)

    def watch(self, fd: int) -> None:
        """The open file (a borrowed fd) may grow behind our back from now on."""
        if self.quota is None:
            return
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_ino in self._watched:
            return
        if len(self._watched) >= self._settled_at:
            self._settle()
            # Asking costs calls for each: ask again only when as many came as are really being written.
            self._settled_at = max(_WATCHED_MOST, 2 * len(self._watched))
        self._watched[found.st_ino] = os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
        self._charge(found)

    def _settle(self) -> None:
        """Take the final size of every watched file that nobody can write to any more."""
        for inode, fd in list(self._watched.items()):
            if not _has_writers(fd):
                self._drop(inode, fd)

    def _drop(self, inode: int, fd: int) -> None:
        found = os.fstat(fd)
        os.close(self._watched.pop(inode))
        if found.st_nlink:
            self._charge(found)
        else:
            self._total -= self._charged.pop(inode, 0)

    def usage(self, *, exact: bool = False) -> Usage:
        """The books, brought up to date; or a walk of the upper layer."""
        if exact or self.quota is None:
            self._recount()
        for inode, fd in list(self._watched.items()):
            found = os.fstat(fd)
            if found.st_nlink or _has_writers(fd):
                self._charge(found)
            else:
                self._drop(inode, fd)
        return Usage(self._total, self._entries, self.quota)

    def reserve(self, size: int) -> None:
        """Raise BranchQuotaError unless `size` more bytes fit."""
        if self.quota is None:
            return
        used = self.usage().allocated
        if used + size > self.quota:
            raise BranchQuotaError(used, size, self.quota)

    def _recount(self) -> None:
        self._charged.clear()
        self._total = self._entries = 0
        self._charge(os.fstat(self._upper))
        for _, _, listed in walk(self._upper, upper=True):
            self._entries += len(listed)
            for _, found in listed:
                self._charge(found)

    def close(self) -> None:
        """Close the fds."""
        for fd in self._watched.values():
            os.close(fd)
        self._watched.clear()
