"""open, creat, openat and openat2."""

from __future__ import annotations

import os
from errno import E2BIG, EAGAIN, EFAULT, EINVAL, EISDIR
from struct import unpack_from
from typing import TYPE_CHECKING

from sandlock_notif.action import Errno
from sandlock_notif.dispatch import Trap
from sandlock_notif.fs.how import CREATE, NO_FOLLOW, PARENT, Limits
from sandlock_notif.fs.origin import AT_FDCWD
from sandlock_notif.memory import READ_MAX, read, read_path
from sandlock_sys.shortcut import Kind, Row

if TYPE_CHECKING:
    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.location import Location
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["Opening"]

_CREAT = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
_TMPFILE = 0o20000000  # __O_TMPFILE, asm-generic/fcntl.h, 3.11
# Every flag that open knows, asm-generic/fcntl.h; openat2 refuses others, open ignores them.
_KNOWN = (
    os.O_ACCMODE | os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_APPEND | os.O_NONBLOCK | os.O_SYNC
    | os.O_DSYNC | os.O_ASYNC | os.O_DIRECT | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC | os.O_PATH
    | os.O_LARGEFILE | 0o100000 | _TMPFILE
)  # fmt: skip
_PATH_ONLY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_PATH | os.O_CLOEXEC  # what O_PATH leaves of the flags
_HOW_SIZE = 24  # struct open_how, version 0; linux/openat2.h, 5.6
_PAGE = 4096
# RESOLVE_*, linux/openat2.h
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _IN_ROOT, _RESOLVE_CACHED = 1, 2, 4, 8, 0x10, 0x20
_WHY = "what is opened is decided by the view, and the fd is given to the child"


class Opening:
    """Handlers of the calls that open."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def traps(self) -> list[Trap]:
        """The calls, by every name that an architecture has."""
        rows = (
            ("open", self.open, Row(Kind.OPEN, 0, flags=1)),
            ("creat", self.creat, None),
            ("openat", self.openat, Row(Kind.OPEN, 1, at=0, flags=2)),
            ("openat2", self.openat2, None),
        )
        return [Trap(name, handle, _WHY, cost="deputy", row=row) for name, handle, row in rows]

    def open(self, request: Request) -> Outcome:
        """Serve open: path, flags, mode."""
        return self._open(request, AT_FDCWD, 0, request.args[1] & _KNOWN, request.args[2])

    def creat(self, request: Request) -> Outcome:
        """Serve creat: path, mode."""
        return self._open(request, AT_FDCWD, 0, _CREAT, request.args[1])

    def openat(self, request: Request) -> Outcome:
        """Serve openat: directory, path, flags, mode."""
        return self._open(request, request.int_arg(0), 1, request.args[2] & _KNOWN, request.args[3])

    def openat2(self, request: Request) -> Outcome:
        """Serve openat2: directory, path, how, size."""
        size = request.args[3]
        if size < _HOW_SIZE:
            return Errno(EINVAL)
        if size > _PAGE:
            return Errno(E2BIG)
        how = read(request, request.args[2], min(size, READ_MAX), fault=EFAULT)
        if how[_HOW_SIZE:].strip(b"\0"):
            return Errno(E2BIG)
        flags, mode, how_to = unpack_from("=QQQ", how)
        if flags & ~_KNOWN or how_to & ~0x3F or (how_to & _BENEATH and how_to & _IN_ROOT):
            return Errno(EINVAL)
        if mode & ~0o7777 or (mode and not flags & (os.O_CREAT | _TMPFILE)):
            return Errno(EINVAL)
        if flags & os.O_PATH and flags & ~_PATH_ONLY:
            return Errno(EINVAL)
        if how_to & _RESOLVE_CACHED:
            return Errno(EAGAIN)  # as if it were not: the caller asks again without
        limits = Limits(*(bool(how_to & bit) for bit in (_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _IN_ROOT)))
        return self._open(request, request.int_arg(0), 1, flags, mode, limits if how_to else None)

    def _open(
        self, request: Request, at: int, argument: int, flags: int, mode: int, limits: Limits | None = None
    ) -> Outcome:
        if flags & os.O_PATH:
            flags &= _PATH_ONLY
        elif flags & _TMPFILE:
            if flags & os.O_TMPFILE != os.O_TMPFILE or flags & os.O_ACCMODE == os.O_RDONLY or flags & os.O_CREAT:
                return Errno(EINVAL)
        elif flags & os.O_CREAT and flags & os.O_DIRECTORY:
            return Errno(EINVAL)  # 6.4; before it a file was made
        how = 0
        if flags & os.O_NOFOLLOW or (flags & os.O_CREAT and flags & os.O_EXCL):
            how |= NO_FOLLOW
        if flags & os.O_CREAT:
            how |= CREATE

        path = read_path(request, argument)
        if (
            flags & os.O_CREAT and path.endswith(b"/") and path.strip(b"/")
        ):  # whatever is there, once its directory was found
            return self._files.at_path(request, at, path, PARENT, lambda _: Errno(EISDIR), limits)

        def act(place: Location) -> Outcome:
            return self._files.layer(place).open(request, place, flags, mode & 0o7777)

        return self._files.at_path(request, at, path, how, act, limits)
