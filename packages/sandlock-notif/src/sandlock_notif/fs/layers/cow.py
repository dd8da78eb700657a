"""Copy-on-write: a directory of the view whose changes go to a branch."""

from __future__ import annotations

__all__ = ["CowLayer"]


class CowLayer:
    """The layer of one branch."""

    def position(self, fd: int) -> bytes:
        """Return the branch's path of what an fd of the child's pins."""
        return b"%d" % fd
