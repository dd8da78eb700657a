"""Which device and inode number a program sees, so that a file keeps its identity when it is copied up."""

from __future__ import annotations

import errno
import os

from sandlock_cow import overlay

__all__ = ["Identities"]

_FOREIGN = 1 << 62  # set in inode numbers of the upper layer's own file system, when that is another one


class Identities:
    """The lower inode number of each upper inode that was copied up.

    Kept in memory by upper inode number, and on disk as an extended attribute of files and directories, which a resumed
    branch reads again. Symlinks and special files cannot carry one: those keep their identity while the branch is open.
    """

    def __init__(self, lower_device: int, upper_device: int) -> None:
        self._lower_device = lower_device
        self._upper_device = upper_device
        self._lower_of: dict[int, int] = {}

    def of(self, found: os.stat_result) -> tuple[int, int]:
        """The identity for a backing object's attributes."""
        if found.st_dev != self._upper_device:
            return found.st_dev, found.st_ino
        lower = self._lower_of.get(found.st_ino)
        if lower is not None:
            return self._lower_device, lower
        if self._upper_device == self._lower_device:
            return found.st_dev, found.st_ino
        return self._lower_device, found.st_ino | _FOREIGN

    def of_upper(self, inode: int) -> int:
        """The inode number alone, for one of the upper layer."""
        lower = self._lower_of.get(inode)
        if lower is not None:
            return lower
        return inode if self._upper_device == self._lower_device else inode | _FOREIGN

    def note(self, upper: os.stat_result, lower: os.stat_result, path: str | int) -> None:
        """Remember that `upper` was copied up from `lower`; `path` reaches the upper object, or is "" for a link."""
        if lower.st_dev != self._lower_device:
            return  # another mount inside the lower directory: its numbers could clash
        self._lower_of[upper.st_ino] = lower.st_ino
        if path == "":
            return
        try:
            os.setxattr(path, overlay.IDENTITY, b"%d" % lower.st_ino)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EDQUOT):
                raise

    def load(self, upper: os.stat_result, path: str | bytes) -> None:
        """Read what a former process noted on the object at `path`."""
        try:
            value = os.getxattr(path, overlay.IDENTITY, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
                raise
            return
        if value.isdigit():
            self._lower_of[upper.st_ino] = int(value)

    def forget(self, upper: os.stat_result) -> None:
        """The last name of an upper inode is gone: its number may come back for another file."""
        if upper.st_nlink <= 1:
            self._lower_of.pop(upper.st_ino, None)
