"""Branches that nobody has open: kept on purpose, or left by a process that died."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

from sandlock_cow import journal
from sandlock_cow.branch import Branch
from sandlock_cow.errors import BranchBusyError, BranchStorageError
from sandlock_cow.model import State
from sandlock_cow.storage import GONE, KEPT, NEW, Store, default_storage, open_folder, read_meta

__all__ = ["Preserved", "list_preserved"]


@dataclass(frozen=True, slots=True)
class Preserved:
    """A branch in the storage.

    Attributes:
        path: its folder.
        lower: the real tree that it covers.
        backend: `served` or `overlay`.
        created_s: when it was made, seconds since 1970.
        state: why it is there.

    """

    path: str
    lower: str
    backend: str
    created_s: float
    state: State

    def resume(self, *, quota: int | None = None) -> Branch:
        """`Branch.resume`."""
        return Branch.resume(self.path, quota=quota)

    def discard(self) -> None:
        """Remove it; an interrupted commit is finished or undone first, since its traces are in the real tree.

        The real tree may be gone, and the traces with it; otherwise it is not looked at.
        """
        if self.state is State.COMMITTING and os.path.lexists(self.lower):
            self.resume().discard()
        else:
            Store.drop(self.path)


def list_preserved(storage: str | bytes | None = None) -> tuple[Preserved, ...]:
    """The branches in `storage` that are not open now, oldest first; an empty storage or none at all has none.

    A folder that cannot be read as a branch of this user is not listed.
    """
    home = os.fsdecode(storage) if storage is not None else default_storage()
    try:
        names = os.listdir(home)
    except FileNotFoundError:
        return ()
    except NotADirectoryError as error:
        raise BranchStorageError(home, "is no directory") from error
    found = []
    for name in names:
        if name.startswith((NEW, GONE)):
            continue
        try:
            found.append(_read(os.path.join(os.path.realpath(home), name)))
        except (BranchStorageError, BranchBusyError):
            continue
    return tuple(sorted(found, key=lambda branch: branch.created_s))


def _read(path: str) -> Preserved:
    folder = open_folder(path)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BranchBusyError(path) from error
        meta = read_meta(folder, path)
        if journal.read(folder) is not None:
            state = State.COMMITTING
        else:
            state = State.KEPT if KEPT in os.listdir(folder) else State.LEFT
        return Preserved(path, meta["lower"], meta["backend"], float(meta["created_s"]), state)
    finally:
        os.close(folder)
