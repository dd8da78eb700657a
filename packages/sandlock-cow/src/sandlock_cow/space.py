"""How many bytes a branch holds, and how many it may."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from itertools import islice

from sandlock_cow.errors import BranchQuotaError
from sandlock_cow.model import Usage
from sandlock_cow.walking import walk

__all__ = ["INODE_COST", "Space", "cost"]

INODE_COST = 512  # what one entry costs beside its blocks, so that a million empty files are not free
_BLOCK = 512  # bytes of st_blocks everywhere, stat(2)
_WATCHED_MOST = 64
_ASKED_MOST = 64  # whether they are in use, at a time: that takes five calls each, and other sandboxes wait
_FDS_MOST = 512  # for files that are watched: what forbids reading cannot be asked who has it open


def cost(found: os.stat_result) -> int:
    """Bytes charged for one object."""
    return found.st_blocks * _BLOCK + INODE_COST


def _further_name(found: os.stat_result) -> int:
    """Bytes charged for a name of what has others too."""
    return INODE_COST if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode) else 0


def _in_use(path_only: int, found: os.stat_result) -> bool:
    """Whether anybody has the file open for writing, or at all if it has no name; True where the kernel does not tell.

    A read lease is granted only where nobody writes, a write lease where nobody else has the file open (fcntl(2),
    F_SETLEASE). It is given back at once; should somebody open the file in that moment, the notice is a signal that
    nobody dies of.
    """
    if not stat.S_ISREG(found.st_mode):
        return False  # watched for its attributes only
    try:
        fd = os.open(f"/proc/self/fd/{path_only}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE):
            raise
        return True
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK if found.st_nlink else fcntl.F_WRLCK)
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

    A file that was opened for writing is watched through an O_PATH fd and looked at on every count, until nobody has it
    open for writing; one that lost its last name, until nobody has it open at all, because until then its blocks are
    taken. Without a quota nothing is booked: a count is a walk.
    """

    def __init__(self, upper: int, quota: int | None) -> None:
        if quota is not None and quota < 0:
            raise ValueError(f"a quota of {quota} bytes")
        self.quota = quota
        self._upper = upper
        self._devices: set[int] = set()  # on overlay mounts files may tell another one than directories
        self._charged: dict[int, int] = {}  # by inode number
        self._total = 0
        self._notes = 0
        self._entries = 0
        self._watched: dict[int, int] = {}  # inode number to fd
        self._mapped: set[int] = set()  # of the watched, those that memory writes to
        self._settled_at = _WATCHED_MOST
        if quota is not None:
            self._recount()

    def added(self, found: os.stat_result, above: int) -> None:
        """A name with these attributes came into a directory of the upper layer, a borrowed fd; that may have grown."""
        if self.quota is not None:
            self._entries += 1
            self._total += _further_name(found)
            self._charge(found)
            self._charge(os.fstat(above))

    def noted(self, size: int) -> None:
        """So many bytes were written about what the branch does; they stay as long as it."""
        if self.quota is not None:
            self._notes += size
            self._total += size

    def changed(self, found: os.stat_result) -> None:
        """An object that is in the upper layer has these attributes now."""
        if self.quota is not None:
            self._charge(found)

    def _charge(self, found: os.stat_result) -> None:
        price = cost(found)
        self._devices.add(found.st_dev)
        if found.st_ino in self._mapped:  # its holes are filled without a call
            price = max(price, found.st_size + INODE_COST)
        self._total += price - self._charged.get(found.st_ino, 0)
        self._charged[found.st_ino] = price

    def removed(self, found: os.stat_result) -> None:
        """A name with these attributes (as they were before) left the upper layer."""
        if self.quota is None:
            return
        self._entries -= 1
        self._total -= _further_name(found)
        last = found.st_nlink <= 1 or stat.S_ISDIR(found.st_mode)
        if last and found.st_ino not in self._watched:
            self._total -= self._charged.pop(found.st_ino, 0)

    def watch(self, fd: int) -> None:
        """The open file (a borrowed fd) may grow behind our back from now on."""
        if self.quota is None:
            return
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode):
            self._watch(fd, found)

    def watch_attributes(self, fd: int) -> None:
        """The same for anything of the branch that may get attributes behind our back: they take blocks."""
        if self.quota is not None:
            self._watch(fd, os.fstat(fd))

    def _watch(self, fd: int, found: os.stat_result) -> None:
        if found.st_ino in self._watched:
            return
        self._make_room()
        self._watched[found.st_ino] = os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
        self._charge(found)

    def leaves(self, directory: int, name: bytes, found: os.stat_result) -> None:
        """The name `name` of a file of the upper layer, with these attributes, is about to go: it may be open."""
        if self.quota is None or found.st_nlink != 1 or not stat.S_ISREG(found.st_mode):
            return
        if found.st_ino not in self._watched:
            self._make_room()
            opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            self._watched[found.st_ino] = opened

    def _make_room(self) -> None:
        if len(self._watched) < self._settled_at:
            return
        self._settle()
        if len(self._watched) >= _FDS_MOST:
            raise OSError(errno.ENFILE, f"more than {_FDS_MOST} files of the branch are in use")
        # Asking costs calls for each: ask again only when half as many came.
        self._settled_at = min(max(_WATCHED_MOST, len(self._watched) + _ASKED_MOST // 2), _FDS_MOST)

    def _settle(self) -> None:
        """Take the final size of watched files that nobody can write to any more, of those asked longest ago."""
        for inode, fd in list(islice(self._watched.items(), _ASKED_MOST)):
            self._ask(inode, fd, os.fstat(fd))

    def _ask(self, inode: int, fd: int, found: os.stat_result) -> bool:
        """Tell whether a watched file is in use: then it is the last to be asked again, else it is dropped."""
        if _in_use(fd, found):
            self._watched[inode] = self._watched.pop(inode)
            return True
        self._drop(inode, fd)
        return False

    def holds(self, found: os.stat_result) -> bool:
        """Whether a file, by its attributes, is one of the upper layer, or was when it lost its last name."""
        return found.st_ino in self._charged and found.st_dev in self._devices

    def mapped(self, fd: int) -> None:
        """Memory may write to a file of the branch (a borrowed fd) from now on: its holes count, while it is open.

        Raises:
            BranchQuotaError: they do not fit.

        """
        self.watch(fd)
        found = os.fstat(fd)
        if self.quota is None or found.st_ino in self._mapped or found.st_ino not in self._watched:
            return
        self.reserve(max(found.st_size - found.st_blocks * _BLOCK, 0))
        self._mapped.add(found.st_ino)
        self._charge(found)

    def is_mapped(self, found: os.stat_result) -> bool:
        """Whether memory may write to the file."""
        return found.st_ino in self._mapped

    @property
    def known(self) -> int:
        """Bytes as of the last count, without looking."""
        return self._total

    def _drop(self, inode: int, fd: int) -> None:
        found = os.fstat(fd)
        os.close(self._watched.pop(inode))
        self._mapped.discard(inode)
        if found.st_nlink:
            self._charge(found)
        else:
            self._total -= self._charged.pop(inode, 0)

    def usage(self, *, exact: bool = False) -> Usage:
        """The books, brought up to date; or a walk of the upper layer."""
        if exact or self.quota is None:
            self._recount()
        left = _ASKED_MOST
        for inode, fd in list(self._watched.items()):
            found = os.fstat(fd)
            if not found.st_nlink and left:
                left -= 1
                if not self._ask(inode, fd, found):
                    continue
            self._charge(found)
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
        self._total, self._entries = self._notes, 0
        self._charge(os.fstat(self._upper))
        for _, _, listed in walk(self._upper, upper=True):
            self._entries += len(listed)
            for _, found in listed:
                if found.st_ino in self._charged:
                    self._total += _further_name(found)
                self._charge(found)

    def close(self) -> None:
        """Close the fds."""
        for fd in self._watched.values():
            os.close(fd)
        self._watched.clear()
