"""Calls that change what an inode says: mode, owner, times and length."""

from __future__ import annotations

from errno import EINVAL
from struct import pack, unpack
from typing import TYPE_CHECKING

from sandlock_notif.action import Errno
from sandlock_notif.dispatch import Trap
from sandlock_notif.fs.how import EMPTY, NO_FOLLOW
from sandlock_notif.fs.origin import AT_FDCWD
from sandlock_notif.handlers.files.looking import empty_path
from sandlock_notif.memory import read, read_path
from sandlock_policy.seccomp.rules import not_one_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.location import Location
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["Attributes"]

_SYMLINK_NOFOLLOW, _EMPTY_PATH = 0x100, 0x1000  # AT_*, linux/fcntl.h
_PAIR = 16  # bytes of struct timespec, struct timeval and struct utimbuf
_MILLION = 1_000_000
_WHY = "what a path leads to is decided by the view, and changed by the deputy"


class Attributes:
    """Handlers of the calls that change attributes by path."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def traps(self) -> list[Trap]:
        """The calls, by every name that an architecture has."""
        rows: tuple[tuple[str, Callable[[Request], Outcome]], ...] = (
            ("chmod", lambda r: self._chmod(r, AT_FDCWD, 0, 0)),
            ("fchmodat", lambda r: self._chmod(r, r.int_arg(0), 1, 0)),  # the kernel's has no flags
            ("fchmodat2", lambda r: self._chmod(r, r.int_arg(0), 1, r.args[3] & 0xFFFFFFFF)),
            ("chown", lambda r: self._chown(r, AT_FDCWD, 0, 0)),
            ("lchown", lambda r: self._chown(r, AT_FDCWD, 0, _SYMLINK_NOFOLLOW)),
            ("fchownat", lambda r: self._chown(r, r.int_arg(0), 1, r.args[4] & 0xFFFFFFFF)),
            ("utime", self._utime),
            ("utimes", lambda r: self._utimes(r, AT_FDCWD, 0)),
            ("truncate", self._truncate),
        )
        # A null path means the fd itself, which is the child's own.
        by_fd: tuple[tuple[str, Callable[[Request], Outcome]], ...] = (
            ("futimesat", lambda r: self._utimes(r, r.int_arg(0), 1)),
            ("utimensat", self._utimensat),
        )
        return [
            *(Trap(name, handle, _WHY, cost="deputy") for name, handle in rows),
            *(Trap(name, handle, _WHY, (not_one_of(1, 0, wide=True),), "deputy") for name, handle in by_fd),
        ]

    def _at(self, request: Request, at: int, argument: int, flags: int, act: Callable[[Location], Outcome]) -> Outcome:
        if flags & ~(_SYMLINK_NOFOLLOW | _EMPTY_PATH):
            return Errno(EINVAL)
        how = (NO_FOLLOW if flags & _SYMLINK_NOFOLLOW else 0) | (EMPTY if flags & _EMPTY_PATH else 0)
        path = b"" if empty_path(request, argument, flags) else read_path(request, argument)
        return self._files.ask(request, at, path, how, self._files.foresee, act)

    def _chmod(self, request: Request, at: int, argument: int, flags: int) -> Outcome:
        mode = request.args[argument + 1] & 0o7777

        def act(place: Location) -> Outcome:
            return self._files.layer(place).chmod(request, place, mode)

        return self._at(request, at, argument, flags, act)

    def _chown(self, request: Request, at: int, argument: int, flags: int) -> Outcome:
        uid, gid = (request.args[argument + offset] & 0xFFFFFFFF for offset in (1, 2))

        def act(place: Location) -> Outcome:
            return self._files.layer(place).chown(request, place, uid, gid)

        return self._at(request, at, argument, flags, act)

    def _set_times(self, request: Request, at: int, argument: int, flags: int, times: bytes | None) -> Outcome:
        def act(place: Location) -> Outcome:
            return self._files.layer(place).utime(request, place, times)

        return self._at(request, at, argument, flags, act)

    def _utime(self, request: Request) -> Outcome:
        """Serve utime: path, struct utimbuf."""
        times = None
        if request.args[1]:
            access, modification = unpack("=qq", read(request, request.args[1], _PAIR))
            times = pack("=qqqq", access, 0, modification, 0)
        return self._set_times(request, AT_FDCWD, 0, 0, times)

    def _utimes(self, request: Request, at: int, argument: int) -> Outcome:
        """Serve utimes: path, struct timeval[2]; and futimesat, with a directory before it."""
        times = None
        if request.args[argument + 1]:
            values = unpack("=qqqq", read(request, request.args[argument + 1], 2 * _PAIR))
            if not (0 <= values[1] < _MILLION and 0 <= values[3] < _MILLION):
                return Errno(EINVAL)
            times = pack("=qqqq", values[0], values[1] * 1000, values[2], values[3] * 1000)
        return self._set_times(request, at, argument, 0, times)

    def _utimensat(self, request: Request) -> Outcome:
        """Serve utimensat: directory, path, struct timespec[2], flags."""
        times = read(request, request.args[2], 2 * _PAIR) if request.args[2] else None
        return self._set_times(request, request.int_arg(0), 1, request.args[3] & 0xFFFFFFFF, times)

    def _truncate(self, request: Request) -> Outcome:
        """Serve truncate: path, length."""
        length = request.args[1]
        if length >> 63:
            return Errno(EINVAL)

        def act(place: Location) -> Outcome:
            return self._files.layer(place).truncate(request, place, length)

        return self._files.at(request, AT_FDCWD, 0, 0, act)
