"""Directories and files where the view differs from the kernel's, known by identity.

A mark sits on an object, by (st_dev, st_ino), whatever its name is by now. It denies the object, or says what certain
names in a directory mean: a name that is refused whoever creates it, a file made of thin air.

The table also gives the names by which marked objects can be reached. A path without any of them cannot lead through a
mark, because nothing that the sandbox does renames a marked object, so it need not be walked step by step.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from sandlock_notif.fs.aliases import Aliases
from sandlock_sys.walk import Marks

if TYPE_CHECKING:
    from sandlock_notif.fs.layers.virtual import VirtualFile
    from sandlock_notif.fs.mount import Mount
    from sandlock_notif.request import Request

__all__ = ["Awaited", "Hidden", "Identity", "Mark", "MarkTable", "Mounted", "Place", "Refused", "Rule"]

Identity: TypeAlias = tuple[int, int]
"""(st_dev, st_ino)"""


@dataclass(frozen=True, slots=True)
class Refused:
    """The name is denied, whether it is there or not."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hidden:
    """The name is not there: ENOENT."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """The name is, or will be, a directory in which names mean something: it gets a mark when it is met.

    Where it is not there, nothing but a directory may be made.
    """

    names: dict[bytes, Rule]
    hook: Callable[[Request, bytes], Rule | None] | None = None
    transient: bool = False
    filtered: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """The name is a generated file or link."""

    file: VirtualFile


@dataclass(frozen=True, slots=True)
class Mounted:
    """Something else appears under the name."""

    mount: Mount


Rule: TypeAlias = Refused | Hidden | Awaited | Place | Mounted


@dataclass(slots=True)
class Mark:
    """What is special about one object.

    Attributes:
        fd: O_PATH, pins the object so that its inode number is not given to another; owned by the table.
        denied: the reason for refusing the object and everything below, or "".
        names: rules for names in it.
        hook: asked for names that have no rule: `(request, name) -> Rule or None`.
        filtered: whether a listing of it has to be served.
        root_of: the mount whose root it is.
        transient: a folder of a process in /proc: it goes with the process.

    """

    fd: int
    denied: str = ""
    names: dict[bytes, Rule] = field(default_factory=dict)
    hook: Callable[[Request, bytes], Rule | None] | None = None
    filtered: bool = False
    root_of: Mount | None = None
    transient: bool = False

    def rule(self, request: Request, name: bytes) -> Rule | None:
        """Return what `name` means here, None for what the directory says."""
        found = self.names.get(name)
        if found is None and self.hook is not None:
            found = self.hook(request, name)
        return found


class MarkTable:
    """All marks of a view.

    Attributes:
        marks: the identities, for walks.
        triggers: names without which no path leads to a mark.
        inner: those that matter in a copy-on-write folder too: all but the names of such folders.
        aliases: names that mounts give to marked objects.

    """

    def __init__(self) -> None:
        self._by_identity: dict[Identity, Mark] = {}
        self._extra: dict[Identity, str] = {}
        self.marks = Marks(())
        self.triggers: frozenset[bytes] = frozenset()
        self.inner: frozenset[bytes] = frozenset()
        self.aliases = Aliases()

    def __len__(self) -> int:
        return len(self._by_identity) + len(self._extra)

    def get(self, identity: Identity) -> Mark | None:
        """Return the mark of an object, or None."""
        found = self._by_identity.get(identity)
        if found is None and identity in self._extra:
            return Mark(-1, self._extra[identity])
        return found

    def pin(self, fd: int) -> Mark:
        """Return the mark of the object that `fd` (O_PATH, the table's from now on) pins, made if it is new."""
        found = os.fstat(fd)
        identity = found.st_dev, found.st_ino
        mark = self._by_identity.get(identity)
        if mark is None:
            mark = self._by_identity[identity] = Mark(fd)
        elif mark.fd != fd:
            os.close(fd)
        return mark

    def deny_all(self, identities: dict[Identity, str]) -> None:
        """Deny objects inside denied directories that have other names too; they are not pinned."""
        self._extra.update(identities)

    def forget_extra(self, identities: dict[Identity, str]) -> None:
        """Undo `deny_all`."""
        for identity in identities:
            self._extra.pop(identity, None)

    def drop_empty(self) -> None:
        """Forget marks that say nothing any more."""
        for identity, mark in list(self._by_identity.items()):
            if not (mark.denied or mark.names or mark.hook or mark.filtered or mark.root_of):
                del self._by_identity[identity]
                os.close(mark.fd)

    def refresh(self) -> None:
        """Make `marks` and `triggers` anew, after the marks or the names of their objects changed."""
        self.marks = Marks([*self._by_identity, *self._extra])
        names: set[bytes] = set()
        passed = set(self._extra)
        folders: set[bytes] = set()
        for identity, mark in self.pinned():
            names.update(mark.names)
            if mark.hook or mark.root_of:
                names.add(b"..")  # any name may mean something where that leads to
            if not (mark.denied or mark.hook or mark.filtered or mark.root_of):
                continue  # only names in it are special
            passed.add(identity)
            with suppress(OSError):
                path = os.readlink(b"/proc/self/fd/%d" % mark.fd).removesuffix(b" (deleted)")
                only_folder = mark.root_of is not None and mark.root_of.cow is not None and not mark.denied
                (folders if only_folder else names).add(path.rsplit(b"/", 1)[-1])
        if passed:
            names |= self.aliases.of(passed)
        self.inner = frozenset(names - {b""})
        self.triggers = frozenset(names | folders) - {b""}  # no path goes through the root; walks look where they start

    def denied(self) -> Marks:
        """Return what is denied, with what was found inside: no path may start below one of these."""
        return Marks([*(identity for identity, mark in self.pinned() if mark.denied), *self._extra])

    def closed(self) -> Marks:
        """Return the directories in which every name may mean something, so that each path from there is walked."""
        return Marks(
            identity
            for identity, mark in self.pinned()
            if mark.denied or mark.hook or (mark.root_of is not None and mark.root_of.cow is not None)
        )

    def pinned(self) -> list[tuple[Identity, Mark]]:
        """Return all marks that are pinned."""
        return list(self._by_identity.items())

    def close(self) -> None:
        """Close every fd."""
        for mark in self._by_identity.values():
            os.close(mark.fd)
        self._by_identity.clear()
        self._extra.clear()
        self.aliases.close()
        self.refresh()
