"""Calls that change what names there are: mkdir, mknod, symlink, link, unlink, rmdir and rename."""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENOENT, EPERM, EXDEV
from stat import S_IFDIR, S_IFMT, S_IFREG
from typing import TYPE_CHECKING

from sandlock_notif.action import Errno
from sandlock_notif.dispatch import Trap
from sandlock_notif.errors import Refusal
from sandlock_notif.fs.how import EMPTY, NO_FOLLOW, PARENT
from sandlock_notif.fs.mount import MOUNTED
from sandlock_notif.fs.origin import AT_FDCWD
from sandlock_notif.memory import read_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.location import Location
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["Naming"]

# linux/fcntl.h
_REMOVEDIR, _SYMLINK_FOLLOW, _EMPTY_PATH = 0x200, 0x400, 0x1000
_RENAME_FLAGS, _EXCHANGE, _NOREPLACE, _WHITEOUT = 7, 2, 1, 4  # RENAME_*, linux/fs.h
_WHY = "names of the view are made and removed by the deputy"


class Naming:
    """Handlers of the calls that make, move and remove names."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def traps(self) -> list[Trap]:
        """The calls, by every name that an architecture has."""
        rows: tuple[tuple[str, Callable[[Request], Outcome]], ...] = (
            ("mkdir", lambda r: self._mkdir(r, AT_FDCWD, 0)),
            ("mkdirat", lambda r: self._mkdir(r, r.int_arg(0), 1)),
            ("mknod", lambda r: self._mknod(r, AT_FDCWD, 0)),
            ("mknodat", lambda r: self._mknod(r, r.int_arg(0), 1)),
            ("symlink", lambda r: self._symlink(r, AT_FDCWD, 1)),
            ("symlinkat", lambda r: self._symlink(r, r.int_arg(1), 2)),
            ("link", lambda r: self._link(r, (AT_FDCWD, 0), (AT_FDCWD, 1), 0)),
            ("linkat", lambda r: self._link(r, (r.int_arg(0), 1), (r.int_arg(2), 3), r.args[4] & 0xFFFFFFFF)),
            ("unlink", lambda r: self._unlink(r, AT_FDCWD, 0, 0)),
            ("rmdir", lambda r: self._unlink(r, AT_FDCWD, 0, _REMOVEDIR)),
            ("unlinkat", lambda r: self._unlink(r, r.int_arg(0), 1, r.args[2] & 0xFFFFFFFF)),
            ("rename", lambda r: self._rename(r, (AT_FDCWD, 0), (AT_FDCWD, 1), 0)),
            ("renameat", lambda r: self._rename(r, (r.int_arg(0), 1), (r.int_arg(2), 3), 0)),
            ("renameat2", lambda r: self._rename(r, (r.int_arg(0), 1), (r.int_arg(2), 3), r.args[4] & 0xFFFFFFFF)),
        )
        return [Trap(name, handle, _WHY, cost="deputy") for name, handle in rows]

    def _mkdir(self, request: Request, at: int, argument: int) -> Outcome:
        mode = request.args[argument + 1] & 0xFFFF

        def act(place: Location) -> Outcome:
            self._no_dots(request, place)
            return self._files.layer(place).mkdir(request, place, mode & 0o7777)

        return self._files.at(request, at, argument, PARENT, act)

    def _mknod(self, request: Request, at: int, argument: int) -> Outcome:
        mode, device = request.args[argument + 1] & 0xFFFF, request.args[argument + 2] & 0xFFFFFFFF
        if S_IFMT(mode) == S_IFDIR:
            return Errno(EPERM)
        kind = S_IFMT(mode) or S_IFREG

        def act(place: Location) -> Outcome:
            self._no_dots(request, place)
            return self._files.layer(place).mknod(request, place, kind | mode & 0o7777, device)

        return self._files.at(request, at, argument, PARENT, act)

    def _symlink(self, request: Request, at: int, argument: int) -> Outcome:
        target = read_path(request, 0)
        if not target:
            return Errno(ENOENT)

        def act(place: Location) -> Outcome:
            self._no_dots(request, place)
            return self._files.layer(place).symlink(request, target, place)

        return self._files.at(request, at, argument, PARENT, act)

    def _link(self, request: Request, old: tuple[int, int], new: tuple[int, int], flags: int) -> Outcome:
        if flags & ~(_SYMLINK_FOLLOW | _EMPTY_PATH):
            return Errno(EINVAL)
        how = (0 if flags & _SYMLINK_FOLLOW else NO_FOLLOW) | (EMPTY if flags & _EMPTY_PATH else 0)

        def act(source: Location, place: Location) -> Outcome:
            if source.mount is not place.mount:
                return Errno(EXDEV)
            self._no_dots(request, place)
            if source.file is not None:
                return Errno(EXDEV)
            if source.is_directory and not place.exists and place.name.rstrip(b"/") not in (b"", b".", b".."):
                if place.name.endswith(b"/"):
                    return Errno(ENOENT)
                one_mount = place.mount is not None or self._files.view.together(source.object, place.directory)
                return Errno(EPERM if one_mount else EXDEV)
            return self._files.layer(place).link(request, source, place)

        return self._two(request, old, how, new, act)

    def _unlink(self, request: Request, at: int, argument: int, flags: int) -> Outcome:
        if flags & ~_REMOVEDIR:
            return Errno(EINVAL)

        def act(place: Location) -> Outcome:
            self._no_dots(request, place)
            return self._files.layer(place).unlink(request, place, flags)

        return self._files.at(request, at, argument, PARENT, act)

    def _rename(self, request: Request, old: tuple[int, int], new: tuple[int, int], flags: int) -> Outcome:
        if flags & ~_RENAME_FLAGS or (flags & (_NOREPLACE | _WHITEOUT) and flags & _EXCHANGE):
            return Errno(EINVAL)

        def act(source: Location, place: Location) -> Outcome:
            if source.mount is not place.mount:
                return Errno(EXDEV)
            self._no_dots(request, source, place)
            if place.file is not None:
                return self._files.layer(place).rename(request, source, place, flags)
            return self._files.layer(source).rename(request, source, place, flags)

        return self._two(request, old, PARENT, new, act)

    def _no_dots(self, request: Request, *places: Location) -> None:
        """Refuse `.` and `..` in a branch, which never sees them; elsewhere the kernel does."""
        for place in places:
            if place.mount is not None and place.mount.cow is not None and place.name in (b".", b".."):
                root = place.exists and not place.path
                raise Refusal(EBUSY if root else self._files.view.dot_errno(request, place.name))

    def _two(
        self,
        request: Request,
        old: tuple[int, int],
        how: int,
        new: tuple[int, int],
        act: Callable[[Location, Location], Outcome],
    ) -> Outcome:
        """Find both places, then act on them."""
        target = read_path(request, new[1])

        def then(source: Location) -> Outcome:
            try:
                return self._files.at_path(request, new[0], target, PARENT, lambda place: act(source, place))
            except Refusal as refusal:
                named = source.name.rstrip(b"/") not in (b"", b".", b"..")
                if refusal.reason == MOUNTED and named and not source.exists:
                    raise Refusal(ENOENT) from refusal  # what is to be moved is looked for first
                raise

        return self._files.at(request, *old, how, then)
