"""The two layers of a branch seen as one: where a name is, and how it comes into the upper layer."""

from __future__ import annotations

import errno
import os
import stat
from itertools import count
from typing import TYPE_CHECKING

from sandlock_cow import copy_up, overlay, permissions
from sandlock_cow.directories import Directories, Directory
from sandlock_cow.hard_links import HardLinks
from sandlock_cow.identities import Identities
from sandlock_cow.model import Found, Layer
from sandlock_cow.paths import join
from sandlock_cow.records import Records
from sandlock_cow.space import Space
from sandlock_cow.walking import walk

if TYPE_CHECKING:
    from sandlock_cow.beside import Beside
    from sandlock_cow.paths import Parts
    from sandlock_cow.storage import Store

__all__ = ["Place", "Tree", "failure"]


def failure(number: int) -> OSError:
    """The OSError of an errno, of the right subclass."""
    return OSError(number, os.strerror(number))


class Place:
    """Where a path is: its parent, its last component, the layer that decides, and the attributes there."""

    __slots__ = ("found", "layer", "name", "parent", "parts")

    def __init__(
        self, parts: Parts, parent: Directory, name: bytes, layer: Layer, found: os.stat_result | None
    ) -> None:
        self.parts = parts
        self.parent = parent
        self.name = name
        self.layer = layer
        self.found = found

    @property
    def attributes(self) -> os.stat_result:
        """Attributes of what is there; ENOENT when nothing is."""
        if self.found is None:
            raise failure(errno.ENOENT)
        return self.found

    @property
    def directory(self) -> int:
        """The fd of the real directory that holds the name."""
        if self.layer is Layer.UPPER or self.parent.lower < 0:
            return self.parent.upper
        return self.parent.lower

    @property
    def is_directory(self) -> bool:
        """Whether a directory is there."""
        return self.found is not None and stat.S_ISDIR(self.found.st_mode)

    @property
    def path(self) -> bytes:
        """The path inside the branch."""
        return join(self.parts)


class Tree:
    """The state of an open branch. Fds of the roots belong to the store; everything else is closed by `close`."""

    def __init__(self, store: Store, quota: int | None, beside: Beside) -> None:
        self.store = store
        self.beside = beside
        self.upper, self.work, self.lower = store.upper_fd, store.work_fd, store.lower_fd
        self.directories = Directories(self.upper, self.lower)
        devices = os.fstat(self.lower).st_dev, os.fstat(self.upper).st_dev
        self.hard_links = HardLinks(self.lower)
        self.identities = Identities(*devices, beside, self.hard_links)
        self.identities.note(os.fstat(self.upper), os.fstat(self.lower), "")
        self.space = Space(self.upper, quota)
        self.records = Records(store.folder)
        self.space.noted(self.records.loaded)
        self._numbers = count()
        self._token = os.urandom(4).hex().encode()
        self._load_identities()
        beside.layers = self.upper, self.lower

    def _load_identities(self) -> None:
        own: list[os.stat_result] = []
        for _, directory, listed in walk(self.upper, upper=True):
            own += [found for _, found in listed]
            for name, found in listed:
                if stat.S_ISDIR(found.st_mode) and overlay.may_be_opaque(directory, name):
                    self.beside.hides(name)
                if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
                    self.identities.load(found, b"/proc/self/fd/%d/%s" % (directory, name))
        for found in own:
            if found.st_ino not in self.beside.numbers:
                self.identities.made(found)

    def close(self) -> None:
        """Close every fd but the store's."""
        self.beside.close()
        self.directories.close()
        self.space.close()
        self.records.close()

    # Looking.

    def place(self, parts: Parts) -> Place:
        """Where `parts` is; the parent must exist."""
        if not parts:
            return Place(parts, self.directories.root, b".", Layer.UPPER, os.fstat(self.upper))
        parent = self.directories.get(parts[:-1])
        return self._place_in(parent, parts)

    def _place_in(self, parent: Directory, parts: Parts) -> Place:
        name = parts[-1]
        if parent.upper >= 0:
            try:
                found = os.stat(name, dir_fd=parent.upper, follow_symlinks=False)
            except FileNotFoundError:
                found = None
            if found is not None:
                if overlay.is_whiteout_mode(found) or (
                    not self.store.device_whiteouts and overlay.is_whiteout(parent.upper, name, found)
                ):
                    return Place(parts, parent, name, Layer.WHITEOUT, None)
                return Place(parts, parent, name, Layer.UPPER, found)
        if parent.lower >= 0:
            try:
                found = os.stat(name, dir_fd=parent.lower, follow_symlinks=False)
            except FileNotFoundError:
                found = None
            # A whiteout in the lower tree (of somebody else's overlay) is no name there either.
            if found is not None and not overlay.is_whiteout_mode(found):
                return Place(parts, parent, name, Layer.LOWER, found)
        return Place(parts, parent, name, Layer.ABSENT, None)

    def require(self, parts: Parts) -> Place:
        """Where `parts` is; ENOENT when nothing is there."""
        place = self.place(parts)
        if place.found is None:
            raise failure(errno.ENOENT)
        return place

    def require_parents(self, *paths: Parts) -> None:
        """Raise unless every parent is there and may be searched: the kernel looks at both before either name."""
        for parts in paths:
            parent = self.directories.get(parts[:-1])
            if os.geteuid() != 0:
                permissions.require(parent.upper if parent.upper >= 0 else parent.lower, b".", os.X_OK)

    def find(self, parts: Parts) -> Found:
        """The public form of `place`."""
        place = self.place(parts)
        return Found(place.layer, place.directory, place.name, place.found)

    def in_lower(self, place: Place) -> os.stat_result | None:
        """What the real tree holds at the place's name, seen or hidden; None where its directory is not merged."""
        if place.parent.lower < 0:
            return None
        try:
            found = os.stat(place.name, dir_fd=place.parent.lower, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return None if overlay.is_whiteout_mode(found) else found

    # Into the upper layer.

    def note(self, place: Place) -> None:
        """Remember what the real tree holds here, before it is first hidden. Not needed where the parent hides it."""
        if place.parent.lower >= 0 and place.parts:
            self.space.noted(self.records.note(place.path, self.in_lower(place)))

    def copy_up(self, parts: Parts) -> Found:
        """Bring what is there into the upper layer, and find it."""
        self.raise_up(self.require(parts))
        return self.find(parts)

    def raise_up(self, place: Place, *, data: bool = True) -> Place:
        """Bring what is at `place` into the upper layer; without `data` a file comes up empty."""
        if place.layer is Layer.UPPER:
            return place
        copy_up.copy_up(self, place, data=data)
        return self.require(place.parts)

    def upper_directory(self, parts: Parts) -> Directory:
        """The directory `parts`, with an upper part: it and its parents are copied up if they have none."""
        directory = self.directories.get(parts)
        if directory.upper < 0:
            copy_up.copy_up_directory(self, parts)
            directory = self.directories.get(parts)
        return directory

    def work_name(self) -> bytes:
        """A fresh name in the work directory."""
        return b"%s-%d" % (self._token, next(self._numbers))

    def whiteout(self) -> bytes:
        """Make a whiteout in the work directory and return its name there."""
        name = self.work_name()
        overlay.make_whiteout(self.work, name, device=self.store.device_whiteouts)
        return name

    def whiteout_is_in(self, upper: int) -> None:
        """A whiteout was put into this upper directory; one of the second kind must be announced there."""
        if not self.store.device_whiteouts:
            overlay.note_whiteouts(upper)
            self.space.changed(os.fstat(upper))  # the mark may take a block

    def made(self, found: os.stat_result, upper: int) -> None:
        """There is a new name with these attributes in an upper directory: the books follow."""
        self.space.added(found, upper)
        if found.st_nlink == 1 or stat.S_ISDIR(found.st_mode):
            self.identities.made(found)

    def gone(self, found: os.stat_result) -> None:
        """A name with these attributes (as they were before) left the upper layer: the books follow."""
        self.space.removed(found)
        self.identities.forget(found)

    def committed(self, parts: Parts) -> None:
        """What is at `parts` was written to the real tree, where it is another file than the one that it was."""
        try:
            place = self.place(parts)
        except (FileNotFoundError, NotADirectoryError):
            return
        if place.layer is Layer.UPPER and not place.is_directory:
            self.identities.committed(place.attributes, b"/proc/self/fd/%d/%s" % (place.directory, place.name))

    def trim(self) -> None:
        """Between two operations: close the directories that are not needed any more."""
        self.directories.trim()
