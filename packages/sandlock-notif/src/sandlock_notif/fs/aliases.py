"""What else directories are called: where the kernel mounts them too, and what they are called below their mount.

A directory has one name, but for mounts: a bind mount shows it in a second place by another one. A path through there
has none of the names that a mark's own path tells, so `MarkTable.triggers` needs these as well.
"""

from __future__ import annotations

import os
import re
from errno import ENOENT, ENOTDIR
from typing import TYPE_CHECKING

from sandlock_sys.errors import SyscallError
from sandlock_sys.openat2 import openat2

if TYPE_CHECKING:
    from collections.abc import Container

    from sandlock_notif.fs.marks import Identity

__all__ = ["Aliases"]

_CACHED = 0x20  # RESOLVE_CACHED, linux/openat2.h, 5.12: a mount point is known, or its file server would be asked
_PIECE = 1 << 16
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Aliases:
    """The names of what is mounted in the sandbox's mount namespace, as it was when it was last looked at.

    Safety: the sandbox can mount nothing. What somebody outside mounts into its namespace meanwhile is not known.
    """

    def __init__(self) -> None:
        self._table = self._root = -1
        self._names: dict[Identity, set[bytes]] = {}
        self._unknown: set[bytes] = set()

    def attach(self, pid: int, root: int) -> None:
        """Look at the mounts of process `pid`, whose root `root` pins, borrowed until `close`; for later looks too.

        Raises:
            OSError: they cannot be read.

        """
        self._root = root
        self._table = os.open(b"/proc/%d/mountinfo" % pid, os.O_RDONLY | os.O_CLOEXEC)
        self.look()

    def look(self) -> None:
        """Look again."""
        names: dict[Identity, set[bytes]] = {}
        unknown: set[bytes] = set()
        for line in self._lines():
            shown, place = (_ESCAPED.sub(_byte, field) for field in line.split(b" ", 5)[3:5])
            own = {path.removesuffix(b"//deleted").rpartition(b"/")[2] for path in (shown, place)} - {b""}
            try:
                found = openat2(self._root, place.lstrip(b"/") or b".", os.O_PATH | os.O_NOFOLLOW, _CACHED)
            except SyscallError as error:
                if error.errno not in (ENOENT, ENOTDIR):
                    unknown |= own
                continue
            status = os.fstat(found)
            os.close(found)
            names.setdefault((status.st_dev, status.st_ino), set()).update(own)
        self._names, self._unknown = names, unknown

    def _lines(self) -> list[bytes]:
        text, piece = b"", b"\0"
        while self._table >= 0 and piece:
            piece = os.pread(self._table, _PIECE, len(text))
            text += piece
        return text.splitlines()

    def __contains__(self, identity: object) -> bool:
        """Whether this is where a mount begins."""
        return identity in self._names

    def of(self, identities: Container[Identity]) -> set[bytes]:
        """Return the names of the mounted objects among these, and of all that could not be looked at."""
        found = [names for identity, names in self._names.items() if identity in identities]
        return self._unknown.union(*found)

    def close(self) -> None:
        """Close what the mounts are read from."""
        if self._table >= 0:
            os.close(self._table)
        self._table = self._root = -1


def _byte(escaped: re.Match[bytes]) -> bytes:
    return bytes([int(escaped[1], 8) & 0xFF])
