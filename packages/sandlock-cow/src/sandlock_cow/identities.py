"""Which device and inode number a program sees, so that a file keeps its identity when it is copied up."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from sandlock_cow import overlay

if TYPE_CHECKING:
    from sandlock_cow.beside import Beside
    from sandlock_cow.hard_links import HardLinks

__all__ = ["Identities"]

_FOREIGN = 1 << 62  # set in inode numbers of the upper layer that could be those of a file of the real tree


class Identities:
    """The identity, before it was copied up, of each upper inode that was.

    Kept in memory by upper inode number, and on disk as an extended attribute of files and directories, which a resumed
    branch reads again. Symlinks and special files cannot carry one, and device numbers of other file systems need not
    be the same next time: these keep their identity while the branch is open.

    Safety: a program takes two files for one when their numbers agree, and may remove one of them. So a file with names
    outside of the tree, which stay what they were, gets another identity when it is copied up.

    Arguments:
        lower_device: of the real tree.
        upper_device: of the storage.
        beside: holds the table, and tells others.
        hard_links: of the real tree.

    """

    def __init__(self, lower_device: int, upper_device: int, beside: Beside, hard_links: HardLinks) -> None:
        self._lower_device = lower_device
        self._upper_device = upper_device
        self._beside = beside
        self._hard_links = hard_links
        self._taken: dict[int, int] = {}  # numbers on the upper layer's own device that are shown, and by how many

    def of(self, found: os.stat_result) -> tuple[int, int]:
        """The identity for a backing object's attributes."""
        if found.st_dev != self._upper_device:
            return found.st_dev, found.st_ino
        return self._of_upper(found.st_ino)

    def of_upper(self, inode: int) -> int:
        """The inode number alone, for one of the upper layer."""
        return self._of_upper(inode)[1]

    def _of_upper(self, inode: int) -> tuple[int, int]:
        shown = self._beside.numbers.get(inode)
        if shown is not None:
            return shown
        return self._lower_device, inode if self._upper_device == self._lower_device else inode | _FOREIGN

    def note(self, upper: os.stat_result, lower: os.stat_result, path: str | int) -> None:
        """Remember that `upper` was copied up from `lower`; `path` reaches the upper object, or is "" for a link."""
        if not self._hard_links.all_here(lower):
            self.made(upper)
            return
        self._show(upper.st_ino, (lower.st_dev, lower.st_ino))
        if path == "" or lower.st_dev != self._lower_device:
            return
        try:
            os.setxattr(path, overlay.IDENTITY, b"%d" % lower.st_ino)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EDQUOT):
                raise

    def made(self, upper: os.stat_result) -> None:
        """A new upper inode: it is shown as nothing that it is not, whatever had its number before."""
        taken = self._upper_device == self._lower_device and upper.st_ino in self._taken
        self._show(upper.st_ino, (self._lower_device, upper.st_ino | _FOREIGN) if taken else None)

    def load(self, upper: os.stat_result, path: str | bytes) -> None:
        """Read what a former process noted on the object at `path`."""
        try:
            value = os.getxattr(path, overlay.IDENTITY, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
                raise
            return
        if value.isdigit() and 0 < int(value) < 1 << 64:
            self._show(upper.st_ino, (self._lower_device, int(value)))

    def forget(self, upper: os.stat_result) -> None:
        """The last name of an upper inode is gone: its number may come back for another file."""
        if upper.st_nlink <= 1:
            self._show(upper.st_ino, None)

    def committed(self, upper: os.stat_result, path: bytes) -> None:
        """The real tree has a copy of the object at `path` in the place of the one that it came from."""
        self._show(upper.st_ino, None)
        try:
            os.removexattr(path, overlay.IDENTITY, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
                raise

    def _show(self, inode: int, shown: tuple[int, int] | None) -> None:
        before = self._beside.numbers.get(inode)
        if before == shown:
            return
        if before is not None:
            left = self._taken.get(before[1], 0) - 1
            if left > 0:
                self._taken[before[1]] = left
            else:
                self._taken.pop(before[1], None)
        if shown is not None:
            self._taken[shown[1]] = self._taken.get(shown[1], 0) + 1
        self._beside.show(inode, shown)
