"""How a path is to be resolved."""

from __future__ import annotations

from dataclasses import dataclass

from sandlock_notif.errors import NotifError
from sandlock_sys.walk import Flag

__all__ = ["CREATE", "EMPTY", "LOOK", "NO_FOLLOW", "PARENT", "Limits", "UncachedError"]

NO_FOLLOW = int(Flag.NO_FOLLOW)
"""A symlink at the end is what is meant."""
PARENT = int(Flag.PARENT)
"""The last component names what is made or removed."""
CREATE = 0x100
"""The last component need not be there."""
EMPTY = 0x200
"""An empty path means the fd itself (AT_EMPTY_PATH)."""
LOOK = 0x400
"""Nothing but attributes is wanted, which an fd tells anyway (fstat)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What openat2 allows on the way: RESOLVE_* of linux/openat2.h."""

    no_cross: bool = False
    no_magic: bool = False
    no_links: bool = False
    beneath: bool = False
    in_root: bool = False


class UncachedError(NotifError):
    """The kernel would have to ask a file system, which may take long: resolve again in a thread."""
