"""For who looks names up in the two layers himself, beside the branch: where they are, and when they stand still.

A name of the upper layer hides the lower one's; what is not in the upper layer is what the lower one says, but below
directories that hide theirs (`Beside.opaque`). Whoever relies on that has to know that no operation was under way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from threading import RLock

__all__ = ["Beside", "Watcher"]


class Watcher(Protocol):
    """Who is told. All of them are called with the branch locked, and quickly, by any thread."""

    def begin(self) -> None:
        """An operation begins; one can begin in another."""

    def end(self) -> None:
        """It is over."""

    def forget(self) -> None:
        """`Beside.opaque` grew, or the branch was closed; the operation is not over yet."""

    def show(self, inode: int, shown: tuple[int, int] | None) -> None:
        """An inode of the upper layer is shown as another `(st_dev, st_ino)` from now on, or as itself."""


class Beside:
    """What the layers of one branch look like from outside: `Branch.beside`, a context for one operation.

    Arguments:
        lock: of the branch.

    Attributes:
        layers: O_PATH fds of the upper and the lower directory, borrowed; None when the branch is closed.
        opaque: the names that directories have, or had, which hide what the lower layer has below them.
        numbers: what inodes of the upper layer are shown as (`Branch.identity`), of those that differ.

    """

    def __init__(self, lock: RLock) -> None:
        self._lock = lock
        self._watcher: Watcher | None = None
        self.layers: tuple[int, int] | None = None
        self.opaque: frozenset[bytes] = frozenset()
        self.numbers: dict[int, tuple[int, int]] = {}

    def watch(self, watcher: Watcher | None) -> None:
        """Tell `watcher` from now on, and nobody else."""
        with self._lock:
            self._watcher = watcher
            if watcher is not None:
                for inode, shown in self.numbers.items():
                    watcher.show(inode, shown)

    def show(self, inode: int, shown: tuple[int, int] | None) -> None:
        """Show an inode of the upper layer as another, or as itself."""
        if shown is not None:
            self.numbers[inode] = shown
        elif self.numbers.pop(inode, None) is None:
            return
        if self._watcher is not None:
            self._watcher.show(inode, shown)

    def hides(self, *names: bytes) -> None:
        """A directory of one of these names is, or becomes, opaque."""
        if not self.opaque.issuperset(names):
            self.opaque |= {*names}
            self._changed()

    def close(self) -> None:
        """The branch is closed."""
        self.layers = None
        self._changed()

    def _changed(self) -> None:
        if self._watcher is not None:
            self._watcher.forget()

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._watcher is not None:
            self._watcher.begin()

    def __exit__(self, *_: object) -> None:
        if self._watcher is not None:
            self._watcher.end()
        self._lock.release()
