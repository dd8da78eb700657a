"""Which names in the real tree are one file. Read once, when a file with several names is first copied up."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from sandlock_cow.walking import open_below, walk

if TYPE_CHECKING:
    from sandlock_cow.paths import Parts

__all__ = ["HardLinks"]


class HardLinks:
    """The names of each inode that has several below `lower` (a borrowed fd)."""

    def __init__(self, lower: int) -> None:
        self._lower = lower
        self._names: dict[tuple[int, int], list[bytes]] | None = None

    def others(self, found: os.stat_result, parts: Parts) -> list[Parts]:
        """The other names of the file with these attributes, when the tree was read: look at them before use."""
        if self._names is None:
            self._names = self._read()
        own = b"/".join(parts)
        names = self._names.get((found.st_dev, found.st_ino), [])
        return [tuple(name.split(b"/")) for name in names if name != own]

    def all_here(self, found: os.stat_result) -> bool:
        """Whether every name of the file with these attributes is below `lower`, now."""
        if found.st_nlink == 1 or stat.S_ISDIR(found.st_mode):
            return True
        names = [b"/".join(parts) for parts in self.others(found, ())]
        return sum(self._is(name, found) for name in names) == found.st_nlink

    def _is(self, name: bytes, found: os.stat_result) -> bool:
        try:
            fd = open_below(self._lower, name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return os.path.samestat(os.fstat(fd), found)
        finally:
            os.close(fd)

    def _read(self) -> dict[tuple[int, int], list[bytes]]:
        names: dict[tuple[int, int], list[bytes]] = {}
        for path, _, listed in walk(self._lower):
            for name, found in listed:
                if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                    names.setdefault((found.st_dev, found.st_ino), []).append(path + b"/" + name if path else name)
        return names
