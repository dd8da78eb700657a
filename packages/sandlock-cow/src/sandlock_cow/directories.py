"""Open directories of a branch, upper and lower part side by side, a bounded number of them."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from sandlock_cow import overlay
from sandlock_cow.walking import DIRECTORY

if TYPE_CHECKING:
    from sandlock_cow.paths import Parts

__all__ = ["Directories", "Directory"]

_OPEN_MOST = 128  # of each part; far below the usual limit of 1024 fds


class Directory:
    """One directory: `upper` and `lower` are O_PATH fds, -1 where it has no such part. Both: it is merged."""

    __slots__ = ("lower", "upper")

    def __init__(self, upper: int, lower: int) -> None:
        self.upper = upper
        self.lower = lower


class Directories:
    """A cache of open directories by path. What is dropped in an operation is closed by the next `trim`."""

    def __init__(self, upper: int, lower: int) -> None:
        self.root = Directory(upper, lower)
        self._open: dict[Parts, Directory] = {}
        self._closing: list[Directory] = []

    def get(self, parts: Parts) -> Directory:
        """The directory `parts`; ENOENT, ENOTDIR, EACCES as the kernel says. Valid until `trim`."""
        if not parts:
            return self.root
        directory = self._open.get(parts)
        if directory is not None:
            return directory
        # The nearest open ancestor, then down: a path may be deeper than the stack.
        depth = len(parts) - 1
        while depth and parts[:depth] not in self._open:
            depth -= 1
        directory = self._open[parts[:depth]] if depth else self.root
        for index in range(depth, len(parts)):
            directory = _enter(directory, parts[index])
            self._open[parts[: index + 1]] = directory
        return directory

    def forget(self, parts: Parts) -> None:
        """`parts` was moved, removed or got another layer: nothing at or below it is valid any more."""
        depth = len(parts)
        for key in [key for key in self._open if key[:depth] == parts]:
            self._closing.append(self._open.pop(key))

    def trim(self) -> None:
        """Close what was dropped, and the oldest of too many."""
        while len(self._open) > _OPEN_MOST:
            self._closing.append(self._open.pop(next(iter(self._open))))
        for directory in self._closing:
            for fd in (directory.upper, directory.lower):
                if fd >= 0:
                    os.close(fd)
        self._closing.clear()

    def close(self) -> None:
        """Close everything but the root."""
        self.forget(())
        self.trim()


def _open_part(directory: int, name: bytes) -> int:
    """-1 where there is no such name; ENOTDIR for anything but a directory."""
    try:
        return os.open(name, DIRECTORY, dir_fd=directory)
    except FileNotFoundError:
        return -1


def _enter(parent: Directory, name: bytes) -> Directory:
    upper = lower = -1
    try:
        upper = _enter_upper(parent, name)
        if parent.lower >= 0 and not (upper >= 0 and overlay.is_opaque(upper)):
            lower = _enter_lower(parent, name, hidden=upper >= 0)
    except BaseException:
        if upper >= 0:
            os.close(upper)
        raise
    if upper < 0 and lower < 0:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return Directory(upper, lower)


def _enter_upper(parent: Directory, name: bytes) -> int:
    if parent.upper < 0:
        return -1
    try:
        return _open_part(parent.upper, name)
    except NotADirectoryError:
        found = os.stat(name, dir_fd=parent.upper, follow_symlinks=False)
        if overlay.is_whiteout(parent.upper, name, found):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        raise


def _enter_lower(parent: Directory, name: bytes, *, hidden: bool) -> int:
    """The lower part; something that is no directory is no part where an upper directory hides it."""
    try:
        return _open_part(parent.lower, name)
    except NotADirectoryError:
        if not hidden:
            _refuse(parent.lower, name)
        return -1


def _refuse(directory: int, name: bytes) -> None:
    """Something that is no directory is in the way: a whiteout in the lower tree is nothing, the rest is ENOTDIR."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    gone = stat.S_ISCHR(found.st_mode) and found.st_rdev == 0
    number = errno.ENOENT if gone else errno.ENOTDIR
    raise OSError(number, os.strerror(number))
