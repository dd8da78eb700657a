"""What a branch with a quota tells of its files to who lets others write through their fds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from sandlock_cow.tree import Tree

__all__ = ["Books"]


class Books:
    """The books of one branch: `Branch.books`. Without a quota no file is in them, and nothing is refused.

    Arguments:
        using: gives the branch's tree, for one operation.

    """

    def __init__(self, using: Callable[[], AbstractContextManager[Tree]]) -> None:
        self._using = using

    def known(self) -> int:
        """Return the bytes that were allocated at the last count; `Branch.usage` counts anew."""
        with self._using() as tree:
            return tree.space.known

    def holds(self, found: os.stat_result) -> bool:
        """Tell whether a file, by its attributes, is one of the branch's own, with a name or without."""
        with self._using() as tree:
            return tree.space.holds(found)

    def map(self, fd: int) -> None:
        """Let a file of the branch be mapped shared and writable: until nobody has it open, its holes count too.

        Arguments:
            fd: borrowed.

        Raises:
            BranchQuotaError: the holes do not fit.

        """
        with self._using() as tree:
            tree.space.mapped(fd)

    def watch_attributes(self, fd: int) -> None:
        """Count anew something of the branch (a borrowed fd) that may get extended attributes through an fd."""
        with self._using() as tree:
            tree.space.watch_attributes(fd)

    def is_mapped(self, found: os.stat_result) -> bool:
        """Tell whether the holes of a file, by its attributes, count."""
        with self._using() as tree:
            return tree.space.is_mapped(found)
