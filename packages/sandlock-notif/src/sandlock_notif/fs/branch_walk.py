"""Paths inside a copy-on-write mount, component by component: the branch follows nothing itself."""

from __future__ import annotations

import os
from errno import EACCES, ENOENT, ENOTDIR, EXDEV
from typing import TYPE_CHECKING

from sandlock_notif.errors import Refusal
from sandlock_notif.fs.how import CREATE, NO_FOLLOW, PARENT
from sandlock_notif.fs.layers.cow import locate
from sandlock_notif.fs.location import Location

if TYPE_CHECKING:
    from sandlock_cow.branch import Branch
    from sandlock_notif.fs.how import Limits
    from sandlock_notif.fs.marks import Rule
    from sandlock_notif.fs.mount import Mount
    from sandlock_notif.fs.view import View

__all__ = ["BranchWalk"]


class BranchWalk:
    """A walk inside one mount, up to its end, a symlink, or the way out.

    Attributes:
        position: the branch's path of the directory that the walk is in.
        rule: what the view says about the name that the walk is at, or None; `name` is that name.

    """

    def __init__(self, view: View, mount: Mount, flags: int, limits: Limits | None) -> None:
        assert mount.cow is not None  # noqa: S101  # the caller asked for it
        self._view = view
        self._cow = mount.cow
        self._mount = mount
        self._branch: Branch = mount.cow.branch
        self._flags = flags
        self._beneath = limits is not None and limits.beneath
        self._fenced = limits is not None and (limits.beneath or limits.in_root)
        self._floor = -1
        self.position = b""
        self.rule: Rule | None = None
        self.name = b""

    def run(self, position: bytes, tail: bytes) -> tuple[Location | None, bytes | None, bytes]:
        """Walk from `position` along `tail`.

        Returns a place; or None, what a symlink says, None for `..` out of the mount, and the rest behind it.

        Raises:
            Refusal, OSError: with the errno that the kernel gives.

        """
        parts = position.split(b"/") if position else []
        self.rule = None
        self._cow.check(position)
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
            path = b"/".join([*parts, name])
            self.rule = self._cow.rules.get(path)
            if self.rule is not None:
                self.name = name
                return None, None, b"/" + rest if names else b""
            place = self._judged(locate(self._mount, path))
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
        return self._judged(locate(self._mount, b"/".join(parts))), None, b""

    def _judged(self, place: Location) -> Location:
        """Return the place, unless what is there is denied by another name of it, or of a /proc.

        Safety: a branch's files are opened by this process, and a /proc that is mounted below the folder tells it the
        environment and the memory of processes that the program could not look into (its own process among them).
        """
        if place.identity is not None and place.identity[0] not in self._cow.devices:
            self._look_at_device(place, place.identity[0])
        mark = None if place.identity is None else self._view.table.get(place.identity)
        if mark is not None and mark.denied:
            raise Refusal(EACCES, mark.denied)
        return place

    def _look_at_device(self, place: Location, device: int) -> None:
        fd = self._cow.pinned(place)
        try:
            if self._view.magic.is_proc(os.fstat(fd).st_dev, fd):
                raise Refusal(EACCES, "a /proc below a branch is not shown")
        finally:
            os.close(fd)
        self._cow.devices.add(device)

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
