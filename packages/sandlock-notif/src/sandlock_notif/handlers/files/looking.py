"""Looking at files: stat, statx, access, readlink and statfs, in all their spellings.

Landlock restricts none of these, and the kernel's own checks are those of this process's user, which is the child's. So
they are made here, on the very object that the path led to.
"""

from __future__ import annotations

from errno import EACCES, EINVAL, ENOENT, ENOSYS
from stat import S_ISLNK
from typing import TYPE_CHECKING

from sandlock_notif.action import Errno, Value
from sandlock_notif.dispatch import Trap
from sandlock_notif.errors import Refusal
from sandlock_notif.fs.how import EMPTY, LOOK, NO_FOLLOW
from sandlock_notif.fs.origin import AT_FDCWD
from sandlock_notif.memory import read_path, write
from sandlock_sys import inode
from sandlock_sys.errors import SyscallError
from sandlock_sys.shortcut import Kind, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif.action import Action
    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.location import Location
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["Looking"]

# linux/fcntl.h
_SYMLINK_NOFOLLOW, _NO_AUTOMOUNT, _EMPTY_PATH, _SYNC_TYPE, _EACCESS = 0x100, 0x800, 0x1000, 0x6000, 0x200
_STAT_FLAGS = _SYMLINK_NOFOLLOW | _NO_AUTOMOUNT | _EMPTY_PATH | _SYNC_TYPE
_ACCESS_FLAGS = _EACCESS | _SYMLINK_NOFOLLOW | _EMPTY_PATH
_RESERVED = 0x80000000  # STATX__RESERVED, linux/stat.h
_DONE = Value(0)
_WHY = "what a path leads to is told by the view"


def empty_path(request: Request, argument: int, flags: int) -> bool:
    """Whether a null pointer stands for an empty path (6.11)."""
    return bool(flags & _EMPTY_PATH) and not request.args[argument]


def how(flags: int) -> int:
    """Return the resolver's flags for AT_* flags."""
    return (NO_FOLLOW if flags & _SYMLINK_NOFOLLOW else 0) | (EMPTY | LOOK if flags & _EMPTY_PATH else 0)


class Looking:
    """Handlers of the calls that look."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def traps(self) -> list[Trap]:
        """The calls, by every name that an architecture has."""
        rows = (
            ("stat", self.stat, Row(Kind.STAT, 0, 1)),
            ("lstat", self.lstat, Row(Kind.STAT, 0, 1, fixed=_SYMLINK_NOFOLLOW)),
            ("newfstatat", self.fstatat, Row(Kind.STAT, 1, 2, at=0, flags=3)),
            ("statx", self.statx, Row(Kind.STATX, 1, 4, at=0, flags=2)),
            ("access", self.access, Row(Kind.ACCESS, 0, 1)),
            ("faccessat", self.faccessat, Row(Kind.ACCESS, 1, 2, at=0)),
            ("faccessat2", self.faccessat2, Row(Kind.ACCESS, 1, 2, at=0, flags=3)),
            ("readlink", self.readlink, Row(Kind.READLINK, 0, 1)),
            ("readlinkat", self.readlinkat, Row(Kind.READLINK, 1, 2, at=0)),
            ("statfs", self.statfs, None),
        )
        return [
            *(Trap(name, handle, _WHY, cost="memory", row=row) for name, handle, row in rows),
            Trap("file_getattr", lambda _: Errno(ENOSYS), "it takes a path (6.17), and its callers know the ioctl"),
        ]

    def stat(self, request: Request) -> Outcome:
        """Serve stat: path, buffer."""
        return self._stat(request, AT_FDCWD, 0, 1, 0)

    def lstat(self, request: Request) -> Outcome:
        """Serve lstat: path, buffer."""
        return self._stat(request, AT_FDCWD, 0, 1, _SYMLINK_NOFOLLOW)

    def fstatat(self, request: Request) -> Outcome:
        """Serve newfstatat: directory, path, buffer, flags."""
        flags = request.args[3] & 0xFFFFFFFF
        if flags & ~_STAT_FLAGS:
            return Errno(EINVAL)
        return self._stat(request, request.int_arg(0), 1, 2, flags)

    def _stat(self, request: Request, at: int, argument: int, buffer: int, flags: int) -> Outcome:
        path = b"" if empty_path(request, argument, flags) else read_path(request, argument)

        def ask(place: Location) -> bytes:
            return self._files.layer(place).stat(request, place)

        return self._tell(request, at, path, how(flags), ask, request.args[buffer])

    def _tell(
        self, request: Request, at: int, path: bytes, flags: int, ask: Callable[[Location], bytes], address: int
    ) -> Outcome:
        """Write what is told about a place to the caller's memory."""

        def tell(content: bytes) -> Outcome:
            write(request, address, content)
            return _DONE

        return self._files.ask(request, at, path, flags, ask, tell)

    def statx(self, request: Request) -> Outcome:
        """Serve statx: directory, path, flags, mask, buffer."""
        flags, mask = request.args[2] & 0xFFFFFFFF, request.args[3] & 0xFFFFFFFF
        if flags & ~_STAT_FLAGS or mask & _RESERVED or flags & _SYNC_TYPE == _SYNC_TYPE:
            return Errno(EINVAL)
        path = b"" if empty_path(request, 1, flags) else read_path(request, 1)

        def ask(place: Location) -> bytes:
            return self._files.layer(place).statx(request, place, flags & _SYNC_TYPE, mask)

        return self._tell(request, request.int_arg(0), path, how(flags), ask, request.args[4])

    def access(self, request: Request) -> Outcome:
        """Serve access: path, mode."""
        return self._access(request, AT_FDCWD, 0, request.args[1], 0)

    def faccessat(self, request: Request) -> Outcome:
        """Serve faccessat: directory, path, mode; the kernel's has no flags."""
        return self._access(request, request.int_arg(0), 1, request.args[2], 0)

    def faccessat2(self, request: Request) -> Outcome:
        """Serve faccessat2: directory, path, mode, flags."""
        return self._access(request, request.int_arg(0), 1, request.args[2], request.args[3] & 0xFFFFFFFF)

    def _access(self, request: Request, at: int, argument: int, wide_mode: int, flags: int) -> Outcome:
        mode = wide_mode & 0xFFFFFFFF
        if mode & ~7 or flags & ~_ACCESS_FLAGS:
            return Errno(EINVAL)

        def ask(place: Location) -> Action:
            try:
                self._files.layer(place).access(request, place, mode, flags & _EACCESS)
            except SyscallError as error:
                return Errno(error.errno or EACCES)
            return _DONE

        path = b"" if empty_path(request, argument, flags) else read_path(request, argument)
        return self._files.ask(request, at, path, how(flags), ask, lambda answer: answer)

    def readlink(self, request: Request) -> Outcome:
        """Serve readlink: path, buffer, size."""
        return self._readlink(request, AT_FDCWD, 0)

    def readlinkat(self, request: Request) -> Outcome:
        """Serve readlinkat: directory, path, buffer, size."""
        return self._readlink(request, request.int_arg(0), 1)

    def _readlink(self, request: Request, at: int, argument: int) -> Outcome:
        size = request.int_arg(argument + 2)
        if size <= 0:
            return Errno(EINVAL)
        path = read_path(request, argument)

        def ask(place: Location) -> bytes:
            if place.file is None and not S_ISLNK(place.mode):
                raise Refusal(EINVAL if path else ENOENT)
            return self._files.layer(place).readlink(request, place)[:size]

        def tell(text: bytes) -> Outcome:
            write(request, request.args[argument + 1], text)
            return Value(len(text))

        return self._files.ask(request, at, path, NO_FOLLOW | EMPTY | LOOK, ask, tell)

    def statfs(self, request: Request) -> Outcome:
        """Serve statfs: path, buffer."""

        def ask(place: Location) -> bytes:
            return inode.statfs(self._files.pin(place))

        return self._tell(request, AT_FDCWD, read_path(request, 0), 0, ask, request.args[1])
