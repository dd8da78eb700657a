"""Extended attributes by path, in all three generations of the calls."""

from __future__ import annotations

from errno import E2BIG, EFAULT, EINVAL, ENAMETOOLONG, ERANGE
from struct import unpack_from
from typing import TYPE_CHECKING, TypeVar

from sandlock_notif.action import Errno, Value
from sandlock_notif.dispatch import Trap
from sandlock_notif.errors import Refusal
from sandlock_notif.fs.how import EMPTY, NO_FOLLOW
from sandlock_notif.fs.origin import AT_FDCWD
from sandlock_notif.handlers.files.looking import empty_path
from sandlock_notif.memory import read, read_path, read_string, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.location import Location
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["Xattrs", "give", "name_of"]

Result = TypeVar("Result")

_SYMLINK_NOFOLLOW, _EMPTY_PATH = 0x100, 0x1000  # AT_*, linux/fcntl.h
_NAME_MAX, _SIZE_MAX, _LIST_MAX = 255, 65536, 65536  # XATTR_*, linux/limits.h
_ARGS_SIZE = 16  # struct xattr_args, linux/xattr.h, 6.13
_PAGE = 4096
_WHY = "what a path leads to is decided by the view"


class Xattrs:
    """Handlers of the calls on extended attributes by path."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def traps(self) -> list[Trap]:
        """The calls, by every name that an architecture has."""
        rows = [
            *self._by_path("", 0),
            *self._by_path("l", _SYMLINK_NOFOLLOW),
            ("getxattrat", self._getxattrat),
            ("setxattrat", self._setxattrat),
            ("listxattrat", lambda r: self._list(r, (r.int_arg(0), 1, r.args[2]), r.args[3], r.args[4])),
            ("removexattrat", lambda r: self._remove(r, (r.int_arg(0), 1, r.args[2]), 3)),
        ]
        return [Trap(name, handle, _WHY, cost="memory") for name, handle in rows]

    def _by_path(self, prefix: str, flags: int) -> list[tuple[str, Callable[[Request], Outcome]]]:
        """Return the four calls that follow a link at the end, or with the prefix `l` those that do not."""
        where = AT_FDCWD, 0, flags
        return [
            (f"{prefix}getxattr", lambda r: self._get(r, where, 1, r.args[2], r.args[3])),
            (f"{prefix}listxattr", lambda r: self._list(r, where, r.args[1], r.args[2])),
            (f"{prefix}setxattr", lambda r: self._set(r, where, 1, (r.args[2], r.args[3], r.int_arg(4)))),
            (f"{prefix}removexattr", lambda r: self._remove(r, where, 1)),
        ]

    def _at(
        self,
        request: Request,
        where: tuple[int, int, int],
        ask: Callable[[Location], Result],
        tell: Callable[[Result], Outcome],
    ) -> Outcome:
        at, argument, wide = where
        flags = wide & 0xFFFFFFFF
        if flags & ~(_SYMLINK_NOFOLLOW | _EMPTY_PATH):
            return Errno(EINVAL)
        how = (NO_FOLLOW if flags & _SYMLINK_NOFOLLOW else 0) | (EMPTY if flags & _EMPTY_PATH else 0)
        path = b"" if empty_path(request, argument, flags) else read_path(request, argument)

        def guarded(place: Location) -> Result | Errno:
            try:
                return ask(place)
            except OSError as error:  # the kernel's answer is the child's
                return Errno(error.errno or EINVAL)

        def told(answer: Result | Errno) -> Outcome:
            return answer if isinstance(answer, Errno) else tell(answer)

        return self._files.ask(request, at, path, how, guarded, told)

    def _get(self, request: Request, where: tuple[int, int, int], name_at: int, buffer: int, size: int) -> Outcome:
        name = name_of(request, name_at)

        def ask(place: Location) -> bytes:
            return self._files.layer(place).getxattr(request, place, name)

        return self._at(request, where, ask, lambda content: give(request, content, buffer, size))

    def _list(self, request: Request, where: tuple[int, int, int], buffer: int, size: int) -> Outcome:
        def ask(place: Location) -> bytes:
            return self._files.layer(place).listxattr(request, place)

        return self._at(request, where, ask, lambda content: give(request, content, buffer, size))

    def _set(
        self, request: Request, where: tuple[int, int, int], name_at: int, value_at: tuple[int, int, int]
    ) -> Outcome:
        address, size, flags = value_at
        if flags & ~3:  # XATTR_CREATE | XATTR_REPLACE
            return Errno(EINVAL)
        name = name_of(request, name_at)
        if size > _SIZE_MAX:
            return Errno(E2BIG)
        value = read(request, address, size) if size else b""

        def ask(place: Location) -> Outcome:
            return self._files.layer(place).setxattr(request, place, name, value, flags)

        return self._at(request, where, ask, _as_it_is)

    def _remove(self, request: Request, where: tuple[int, int, int], name_at: int) -> Outcome:
        name = name_of(request, name_at)

        def ask(place: Location) -> Outcome:
            return self._files.layer(place).removexattr(request, place, name)

        return self._at(request, where, ask, _as_it_is)

    def _arguments(self, request: Request) -> tuple[int, int, int]:
        """Return value, size and flags of struct xattr_args at the fifth argument, whose size is the sixth."""
        size = request.args[5]
        if size < _ARGS_SIZE:
            raise Refusal(EINVAL)
        if size > _PAGE:
            raise Refusal(E2BIG)
        content = read(request, request.args[4], size, fault=EFAULT)
        if content[_ARGS_SIZE:].strip(b"\0"):
            raise Refusal(E2BIG)
        value, length, flags = unpack_from("=QII", content)
        return value, length, flags

    def _getxattrat(self, request: Request) -> Outcome:
        """Serve getxattrat: directory, path, at_flags, name, args, size."""
        buffer, size, flags = self._arguments(request)
        if flags:
            return Errno(EINVAL)
        return self._get(request, (request.int_arg(0), 1, request.args[2]), 3, buffer, size)

    def _setxattrat(self, request: Request) -> Outcome:
        """Serve setxattrat: directory, path, at_flags, name, args, size."""
        return self._set(request, (request.int_arg(0), 1, request.args[2]), 3, self._arguments(request))


def _as_it_is(outcome: Outcome) -> Outcome:
    return outcome


def name_of(request: Request, argument: int) -> bytes:
    """Return the name of an attribute that an argument points to; ERANGE (Refusal) for none, or too long a one."""
    try:
        name = read_string(request, request.args[argument], _NAME_MAX + 1)
    except Refusal as refusal:
        raise Refusal(ERANGE if refusal.errno == ENAMETOOLONG else refusal.errno) from refusal
    if not name:
        raise Refusal(ERANGE)
    return name


def give(request: Request, content: bytes, buffer: int, size: int) -> Outcome:
    """Answer as getxattr and listxattr do: the length alone for no room, ERANGE for too little."""
    if size:
        if size < len(content):
            return Errno(ERANGE)
        write(request, buffer, content)
    return Value(len(content))
