"""A mount of the view: a name of it under which another directory or file appears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandlock_notif.fs.layers.cow import CowLayer

__all__ = ["MOUNTED", "Bind", "Mount"]

MOUNTED = "something is mounted there"  # the reason of the refusal


@dataclass(frozen=True, slots=True)
class Bind:
    """What is to appear where.

    Attributes:
        at: the path in the view, as `Mount.at`; something must be there to be covered.
        host: the path on the host of what appears.

    """

    at: bytes
    host: bytes


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

    @property
    def above(self) -> bytes:
        """The directory in the view that `..` leads to from here."""
        return self.at.rpartition(b"/")[0] or b"/"

    def told(self, path: bytes) -> bytes | None:
        """Return the path in the view for one that the kernel told, None where it is not below."""
        rest = _rest(self.shown, path)
        if rest is None:
            return None
        return b"/".join([self.at.rstrip(b"/"), rest] if rest else [self.at])


def _rest(folder: bytes, path: bytes) -> bytes | None:
    folder = folder.rstrip(b"/")
    return path[len(folder) + 1 :] if (path + b"/").startswith(folder + b"/") else None
