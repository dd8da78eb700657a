"""From a path of the child's to a pinned place in the view: in one step where the path cannot meet a mark.

Most paths cannot: none of their names is one by which a marked object is reached (`MarkTable.triggers`), and the
directory that they start in lies outside (`Origins`). Those are found in one step of the kernel's, which refuses
symlinks; what it found is looked at before it is used. All others are walked (`Resolution`).
"""

from __future__ import annotations

import os
from errno import EACCES, EAGAIN, ELOOP, ENOENT, EXDEV
from typing import TYPE_CHECKING

from sandlock_notif.errors import Refusal
from sandlock_notif.fs.how import CREATE, EMPTY, LOOK, NO_FOLLOW, PARENT
from sandlock_notif.fs.location import Location
from sandlock_notif.fs.origin import open_of
from sandlock_notif.fs.resolution import Resolution
from sandlock_sys.walk import Flag, Outcome

if TYPE_CHECKING:
    from sandlock_notif.fs.how import Limits
    from sandlock_notif.fs.marks import Identity
    from sandlock_notif.fs.view import View
    from sandlock_notif.request import Request
    from sandlock_sys.walk import Walked

__all__ = ["resolve"]

_CACHED = int(Flag.CACHED)
_END, _MARK = int(Outcome.END), int(Outcome.MARK)
_SLASH = 0x2F


def resolve(
    view: View,
    request: Request,
    at: int,
    path: bytes,
    flags: int = 0,
    limits: Limits | None = None,
    *,
    wait: bool = False,
) -> Location:
    """Return the place that `path` leads to; the caller owns it.

    Arguments:
        view: to look in.
        request: whose caller means it.
        at: the caller's fd, or AT_FDCWD, that a relative path starts from.
        path: without NUL.
        flags: NO_FOLLOW, PARENT, CREATE, EMPTY.
        limits: of openat2.
        wait: file systems may be waited for; never in the loop's thread.

    Raises:
        Refusal: with the errno that the kernel gives, or EACCES for what is denied.
        UncachedError: without `wait`.
        VanishedError: the task no longer waits.

    """
    if not path:
        if not flags & EMPTY:
            raise Refusal(ENOENT)
        return view.of_fd(request, at, looks=bool(flags & LOOK), wait=wait)
    if path[0] == _SLASH and (limits is None or not limits.in_root):
        if limits is not None and limits.beneath:
            raise Refusal(EXDEV)
        return _from(view, request, view.root, view.root_identity, path, flags, limits, wait)
    start = open_of(request, at)
    try:
        view.systems.check(start, wait=wait)
        # Safety: what is above a removed directory is the branch's storage.
        mount = view.mount_of(start, stored=b".." in path.split(b"/"))
        if mount is not None and mount.cow is not None:
            place = mount.cow.directory_of(start)
            return Resolution(view, request, flags, limits, wait).run(-1, path, mount, place)
        identity = view.origins.start(start)
        return _from(view, request, start, identity, path, flags, limits, wait)
    finally:
        os.close(start)


def _from(
    view: View,
    request: Request,
    start: int,
    identity: Identity,
    path: bytes,
    flags: int,
    limits: Limits | None,
    wait: bool,
) -> Location:
    table = view.table
    if not flags & PARENT and limits is None and not wait and table.triggers.isdisjoint(path.split(b"/")):
        mark = table.get(identity)
        mount = None if mark is None else mark.root_of
        if mark is None or not (mark.hook or (mount is not None and mount.cow is not None)):
            found = view.walker.find(start, path, flags & NO_FOLLOW | _CACHED, table.marks)
            quick = _found(view, found, flags)
            if quick is not None:
                return quick
    return Resolution(view, request, flags, limits, wait).run(start, path)


def _found(view: View, found: Walked, flags: int) -> Location | None:
    """Return what one step found; None when it has to be walked."""
    outcome, error = found[2], found[3]
    if outcome == _END:
        return Location(-1, b"", found[1], found[6:8], found[8])
    if outcome == _MARK:
        mark = view.table.get(found[6:8])
        if mark is not None and mark.denied:
            os.close(found[1])
            raise Refusal(EACCES, mark.denied)
        return Location(-1, b"", found[1], found[6:8], found[8])
    if error in (ELOOP, EAGAIN) or (error == ENOENT and flags & CREATE):
        return None
    raise Refusal(error)
