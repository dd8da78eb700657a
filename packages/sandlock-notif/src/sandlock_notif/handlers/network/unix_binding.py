"""bind(2) of Unix sockets: made by a deputy, inside the sandbox's Landlock domain, which decides where files may be."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import suppress
from errno import EACCES, EADDRINUSE, EINVAL, ENAMETOOLONG
from typing import TYPE_CHECKING, Final

from sandlock_notif.action import Errno, Value
from sandlock_notif.errors import NotifError, Refusal, VanishedError
from sandlock_notif.handlers.network.addresses import AF_UNIX, family_of
from sandlock_notif.handlers.network.pinning import Pending
from sandlock_notif.handlers.network.unix import child_path, parse_unix, same_view
from sandlock_sys import sockets
from sandlock_sys.constants.openat2 import Resolve
from sandlock_sys.errors import SyscallError
from sandlock_sys.openat2 import openat2
from sandlock_sys.proc import read_status

if TYPE_CHECKING:
    from sandlock_arch import Architecture
    from sandlock_notif.action import Action
    from sandlock_notif.deputies import Deputies
    from sandlock_notif.handlers.network.inside import Inside
    from sandlock_notif.handlers.network.unix import UnixPeers
    from sandlock_notif.request import Request
    from sandlock_sys.deputy import Completion
    from sandlock_sys.sockets import Socket

__all__ = ["UnixBinder"]

_PATH_ONLY: Final = os.O_PATH | os.O_CLOEXEC
_AS_CHILD: Final = Resolve.IN_ROOT | Resolve.NO_MAGICLINKS
_PATH_MAX: Final = 107  # UNIX_PATH_MAX, linux/un.h, without the NUL


class UnixBinder:
    """Binds Unix sockets of one sandbox.

    Arguments:
        peers: remembers what was bound.
        inside: the sandbox's own sockets.

    Attributes:
        deputies: of the sandbox; without them no socket file is made.

    """

    def __init__(self, peers: UnixPeers, inside: Inside) -> None:
        self._peers = peers
        self._inside = inside
        self.deputies: Deputies | None = None
        self.arch: Architecture | None = None

    def bind(self, request: Request, pinned: Socket, raw: bytes) -> Action | Pending:
        """Bind a Unix socket to the copied name `raw`."""
        self._inside.add(pinned.cookie)
        if family_of(raw) != AF_UNIX:
            raise Refusal(EINVAL)
        if len(raw) == 2 or raw[2:3] == b"\0":  # the kernel picks an abstract name, or the program did
            error = sockets.bind(pinned.fd, raw)
            if not error:
                self._inside.note_abstract(pinned)
            return Errno(error) if error else Value(0)
        if not self._peers.by_path:
            raise Refusal(EACCES, "socket files are not made in a root, mounts or a branch that the supervisor shows")
        return Pending(self._bind(request, pinned, parse_unix(raw)), pinned)

    async def _bind(self, request: Request, pinned: Socket, path: bytes) -> Action:
        """Make the file. A path that means the same here is bound as it is, so that getsockname(2) tells it."""
        try:
            umask = read_status(request.tid).umask
            folder = openat2(-100, f"/proc/{request.tid}/cwd".encode(), _PATH_ONLY | os.O_DIRECTORY)
        except (OSError, ValueError) as error:
            raise VanishedError from error
        try:
            if not request.waits():
                raise VanishedError
            if same_view(request.tid):
                result = await self._call(pinned.fd, path, folder, umask)
            else:
                os.close(folder)
                folder, name = _parent(request, path)
                result = await self._call(pinned.fd, b"/proc/self/fd/%d/%s" % (folder, name), folder, umask)
        finally:
            os.close(folder)
        if result < 0:
            return Errno(-result)
        self._remember(request, pinned, path)
        return Value(0)

    async def _call(self, fd: int, path: bytes, folder: int, umask: int | None) -> int:
        """Let a deputy bind, with the child's folder and umask as its own."""
        deputies, arch = self.deputies, self.arch
        if deputies is None or arch is None:
            raise Refusal(EACCES, "there is no deputy to make a socket file with")
        if len(path) > _PATH_MAX:
            raise Refusal(ENAMETOOLONG)
        calls = arch.syscalls
        first: list[tuple[int | bytes, ...]] = []
        if not deputies.own_folder:
            await deputies.call(calls["getpid"])  # none runs yet, perhaps
        if deputies.own_folder:
            first = [(calls["fchdir"], folder), (calls["umask"], umask or 0)]
        elif not path.startswith(b"/"):
            path = b"/proc/self/fd/%d/%s" % (folder, path)
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        address = AF_UNIX.to_bytes(2, "little") + path + b"\0"

        def done(completion: Completion) -> None:
            if not future.done():
                future.set_result(completion)

        try:
            deputies.post(calls["bind"], fd, address, len(address), done=done, first=first)
        except NotifError as error:
            raise Refusal(EACCES, str(error)) from error
        return (await future).result

    def _remember(self, request: Request, pinned: Socket, path: bytes) -> None:
        """Keep the identity of the new file: exactly the one that the kernel says this socket is bound to.

        The child may have put something else in its place by now; that is not remembered, whatever it is.
        """
        with suppress(OSError, Refusal, VanishedError):
            root = os.open(f"/proc/{request.tid}/root", _PATH_ONLY)
            try:
                fd = openat2(root, child_path(request, path), _PATH_ONLY, _AS_CHILD)
            finally:
                os.close(root)
            status = os.fstat(fd)
            device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
            place = self._inside.place(os.fstat(pinned.fd).st_ino)
            if stat.S_ISSOCK(status.st_mode) and place == (device, status.st_ino & 0xFFFFFFFF):
                self._peers.adopt(fd)
            else:
                os.close(fd)


def _parent(request: Request, path: bytes) -> tuple[int, bytes]:
    """Return the folder that `path` is in, in the child's view, and the name there."""
    folder, _, name = child_path(request, path).rpartition(b"/")
    if name in (b"", b".", b".."):
        raise Refusal(EADDRINUSE)
    try:
        root = os.open(f"/proc/{request.tid}/root", _PATH_ONLY)
    except OSError as error:
        raise VanishedError from error
    try:
        return openat2(root, folder or b"/", _PATH_ONLY | os.O_DIRECTORY, _AS_CHILD), name
    except SyscallError as error:
        raise Refusal(error.errno or EACCES) from error
    finally:
        os.close(root)
