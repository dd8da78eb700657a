"""Calls on an fd that would change a file of the real tree below a copy-on-write mount (LL-02), and getcwd.

An fd that was opened for reading is the real file's. Its mode, owner, times and attributes may be changed through it,
and Landlock does not see that; so these calls are made on the branch instead.
"""

from __future__ import annotations

import os
from errno import E2BIG, ENOENT, EOPNOTSUPP, ERANGE
from fcntl import F_GETFL, fcntl
from typing import TYPE_CHECKING

from sandlock_notif.action import Errno, Value
from sandlock_notif.dispatch import Trap
from sandlock_notif.errors import Refusal
from sandlock_notif.fs.location import Location
from sandlock_notif.fs.origin import AT_FDCWD, open_of
from sandlock_notif.memory import READ_MAX, read, read_string, write
from sandlock_policy.seccomp.rules import one_of
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["ByFd"]

# FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, FS_IOC_SETVERSION, linux/fs.h: they need no writable fd
_SET_FLAGS = (0x40086602, 0x401C5820, 0x40087602)
_NAMED = ("fsetxattr", "fremovexattr")  # whose first argument, after the fd, is the name of an attribute
_NAME_MAX, _SIZE_MAX = 255, 65536  # XATTR_*, linux/limits.h
_WHY = "through an fd opened for reading the real file would be changed"


class ByFd:
    """Handlers of calls by fd that a copy-on-write mount makes necessary."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def traps(self) -> list[Trap]:
        """The calls."""
        rows: tuple[tuple[str, Callable[[Request], Outcome]], ...] = (
            ("fchmod", self.fchmod),
            ("fchown", self.fchown),
            ("fsetxattr", self.fsetxattr),
            ("fremovexattr", self.fremovexattr),
        )
        return [
            *(Trap(name, handle, _WHY, cost="memory") for name, handle in rows),
            Trap("utimensat", self.futimens, _WHY, (one_of(1, 0, wide=True),), "memory"),
            Trap("ioctl", lambda _: Errno(EOPNOTSUPP), _WHY, (one_of(1, *_SET_FLAGS),)),
            Trap("getcwd", self.getcwd, "the directory of a branch is shown under its real name", cost="memory"),
        ]

    def _on(self, request: Request, act: Callable[[Location], Outcome], call: str, *arguments: int | bytes) -> Outcome:
        """Act on the branch for an fd that leads there; else make the call on the very file that was looked at."""
        process = self._files.view.process(request)
        try:
            held = process.take_fd(request.int_arg(0))
        except SyscallError as error:
            return Errno(error.errno or ENOENT)
        try:
            mount = self._files.view.mount_of(held, stored=True)
            cow = None if mount is None else mount.cow
            if mount is None or cow is None:
                self._check(held)
                kept, held = held, -1
                return self._files.post(request, call, kept, *arguments, fds=(kept,))
            if cow.stores(held):
                kept, held = held, -1
                if call in _NAMED and isinstance(arguments[0], bytes):  # no program forges a mark
                    arguments = (cow.stored(arguments[0]), *arguments[1:])
                return self._files.post_free(request, call, kept, *arguments)
            place = self._files.view.of_fd(request, request.int_arg(0), looks=False, wait=True)
        finally:
            if held >= 0:
                os.close(held)
        try:
            return act(place)
        finally:
            place.close()

    def _check(self, held: int) -> None:
        """Refuse (EPERM) to change what an fd shows outside of what may be written; an fd that writes was granted."""
        if fcntl(held, F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
            return
        found = os.fstat(held)
        self._files.check_metadata(Location(-1, b"", held, (found.st_dev, found.st_ino), found.st_mode))

    def fchmod(self, request: Request) -> Outcome:
        """Serve fchmod: fd, mode."""
        mode = request.args[1] & 0o7777
        return self._on(request, lambda p: self._files.layer(p).chmod(request, p, mode), "fchmod", mode)

    def fchown(self, request: Request) -> Outcome:
        """Serve fchown: fd, uid, gid."""
        uid, gid = request.args[1] & 0xFFFFFFFF, request.args[2] & 0xFFFFFFFF
        return self._on(request, lambda p: self._files.layer(p).chown(request, p, uid, gid), "fchown", uid, gid)

    def futimens(self, request: Request) -> Outcome:
        """Serve utimensat with a null path: fd, null, times, flags."""
        times = read(request, request.args[2], 32) if request.args[2] else None
        words = (0, 0 if times is None else times, request.args[3] & 0xFFFFFFFF)
        return self._on(request, lambda p: self._files.layer(p).utime(request, p, times), "utimensat", *words)

    def fsetxattr(self, request: Request) -> Outcome:
        """Serve fsetxattr: fd, name, value, size, flags."""
        name = read_string(request, request.args[1], _NAME_MAX + 1)
        size = request.args[3]
        if size > min(_SIZE_MAX, READ_MAX):
            return Errno(E2BIG)
        value, flags = read(request, request.args[2], size) if size else b"", request.int_arg(4)

        def act(place: Location) -> Outcome:
            return self._files.layer(place).setxattr(request, place, name, value, flags)

        return self._on(request, act, "fsetxattr", name, value, size, flags)

    def fremovexattr(self, request: Request) -> Outcome:
        """Serve fremovexattr: fd, name."""
        name = read_string(request, request.args[1], _NAME_MAX + 1)
        return self._on(
            request, lambda p: self._files.layer(p).removexattr(request, p, name), "fremovexattr", name
        )  # fmt: skip

    def getcwd(self, request: Request) -> Outcome:
        """Serve getcwd: buffer, size."""
        here = open_of(request, AT_FDCWD)
        try:
            shown = os.readlink(b"/proc/self/fd/%d" % here)
            mount = self._files.view.mount_of(here)
            if mount is not None and mount.cow is not None:
                if shown.endswith(b" (deleted)"):
                    raise Refusal(ENOENT)
                path = mount.cow.path_of(here) or b""
                shown = b"/".join([mount.at.rstrip(b"/"), path] if path else [mount.at])
            elif not os.fstat(here).st_nlink:
                raise Refusal(ENOENT)
            else:
                shown = self._files.view.shown(shown)
        finally:
            os.close(here)
        if len(shown) + 1 > request.args[1]:
            return Errno(ERANGE)
        write(request, request.args[0], shown + b"\0")
        return Value(len(shown) + 1)
