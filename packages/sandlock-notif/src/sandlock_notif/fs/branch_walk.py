"""Paths inside a copy-on-write mount, component by component: the branch follows nothing itself."""

from __future__ import annotations

import os
from errno import ENOENT, ENOTDIR, EXDEV
from typing import TYPE_CHECKING

from sandlock_notif.errors import Refusal
from sandlock_notif.fs.how import CREATE, NO_FOLLOW, PARENT
from sandlock_notif.fs.layers.cow import locate
from sandlock_notif.fs.location import Location

if TYPE_CHECKING:
    from sandlock_cow.branch import Branch
    from sandlock_notif.fs.how import Limits
    from sandlock_notif.fs.mount import Mount

__all__ = ["BranchWalk"]


class BranchWalk:
    """A walk inside one mount, up to its end, a symlink, or the way out.

    Attributes:
        position: the branch's path of the directory that the walk is in.

    """

    def __init__(self, mount: Mount, flags: int, limits: Limits | None) -> None:
        assert mount.cow is not None  # noqa: S101  # the caller asked for it
        self._mount = mount
        self._branch: Branch = mount.cow.branch
        self._flags = flags
        self._beneath = limits is not None and limits.beneath
        self._fenced = limits is not None and (limits.beneath or limits.in_root)
        self._floor = -1
        self.position = b""

    def run(self, position: bytes, tail: bytes) -> tuple[Location | None, bytes | None, bytes]:
        """Walk from `position` along `tail`.

        Returns a place; or None, what a symlink says, None for `..` out of the mount, and the rest behind it.

        Raises:
            Refusal, OSError: with the errno that the kernel gives.

        """
        parts = position.split(b"/") if position else []
        if self._floor < 0:
            self._floor = len(parts)
        names = tail.split(b"/")
        parent = bool(self._flags & PARENT)
        while names:
            name = names.pop(0)
            rest = b"/".join(names)
            last = not rest.strip(b"/")
            if name in (b".", b"..") and parts:
                self._branch.access(b"/".join(parts), os.X_OK)
            if last and parent and name in (b".", b".."):
                place = Location(-1, name)  # whoever acts there refuses, once the other path was looked at
                place.mount, place.path = self._mount, b"/".join(parts)
                return place, None, b""
            if name in (b"", b"."):
                continue
            if name == b"..":
                if not self._up(parts):
                    return None, None, b"/" + rest
                continue
            place = locate(self._mount, b"/".join([*parts, name]))
            place.name = name + (b"/" if names else b"")
            if not place.exists:
                if last and self._flags & (CREATE | PARENT):
                    return place, None, b""
                raise Refusal(ENOENT)
            if place.is_link and not (last and (parent or (self._flags & NO_FOLLOW and not names))):
                self.position = b"/".join(parts)
                return None, self._branch.readlink(place.path), b"/" + rest if names else b""
            if not place.is_directory and (not last or (names and not parent)):
                raise Refusal(ENOTDIR)
            if last:
                return place, None, b""
            parts.append(name)
        return locate(self._mount, b"/".join(parts)), None, b""

    def _up(self, parts: list[bytes]) -> bool:
        """Go up one directory; return False at the mount's own."""
        if self._fenced and len(parts) <= self._floor:
            if self._beneath:
                raise Refusal(EXDEV)
            return True
        if not parts:
            return False
        parts.pop()
        return True
