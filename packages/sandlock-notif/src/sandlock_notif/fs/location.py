"""Where a path led: a directory fd and a name, the object that is there, and the layer that it belongs to."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandlock_notif.fs.layers.virtual import VirtualFile
    from sandlock_notif.fs.marks import Awaited, Identity
    from sandlock_notif.fs.mount import Mount

__all__ = ["Location"]


class Location:
    """One place in the view. It owns its fds until `close`.

    Attributes:
        directory: O_PATH fd of the directory that holds `name`; -1 where no name leads here (an fd of a pipe, say).
        name: the last component as it was given, slashes behind it included; b"." for the directory itself.
        object: O_PATH fd of what is there, or -1.
        identity: (st_dev, st_ino) of the object, or None.
        mode: st_mode of the object, or 0.
        mount: the mount of the view that it lies on; None for the host's own tree.
        path: within a copy-on-write mount: components joined by slashes.
        file: the generated file that the name stands for, or None.
        awaited: the rule of a name that may only become a directory, or None.
        may_change: whether it lies below what may be written, once that was looked at.

    """

    __slots__ = ("awaited", "directory", "file", "identity", "may_change", "mode", "mount", "name", "object", "path")

    def __init__(
        self, directory: int, name: bytes, found: int = -1, identity: Identity | None = None, mode: int = 0
    ) -> None:
        self.directory = directory
        self.name = name
        self.object = found
        self.identity = identity
        self.mode = mode
        self.mount: Mount | None = None
        self.path = b""
        self.file: VirtualFile | None = None
        self.awaited: Awaited | None = None
        self.may_change: bool | None = None

    @property
    def exists(self) -> bool:
        """Whether there is something."""
        return self.identity is not None or self.file is not None

    @property
    def is_link(self) -> bool:
        """Whether it is a symlink itself."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    def given_away(self) -> Location:
        """Return a place that owns the fds from now on."""
        heir = Location(self.directory, self.name, self.object)
        self.directory = self.object = -1
        return heir

    def close(self) -> None:
        """Close both fds; twice is fine."""
        directory, found = self.directory, self.object
        self.directory = self.object = -1
        if directory >= 0:
            os.close(directory)
        if found >= 0 and found != directory:
            os.close(found)

    def __repr__(self) -> str:
        return f"<Location {self.name!r} in fd {self.directory}, object {self.identity}, mode {self.mode:o}>"
