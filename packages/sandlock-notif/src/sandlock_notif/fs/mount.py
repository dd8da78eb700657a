"""A mount of the view: a name of it under which another directory or file appears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandlock_notif.fs.layers.cow import CowLayer

__all__ = ["Mount"]


@dataclass(slots=True, eq=False)
class Mount:
    """One entry of the mount table.

    Attributes:
        at: the path in the view, absolute, without `.`, `..` and double slashes; b"/" for the root.
        root: O_PATH fd of what appears there, owned by the view.
        shown: what the kernel calls it: the host's path.
        cow: the copy-on-write layer that serves it, or None for the host's own files.

    """

    at: bytes
    root: int
    shown: bytes
    cow: CowLayer | None = None
