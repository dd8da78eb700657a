"""Unix sockets: which of them may be reached, and connecting and sending to them.

A name is resolved once, in the child's own view, to the socket's inode; that is judged, and that is connected to. A
socket may be reached that the sandbox bound itself, or that the policy names.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from errno import EAGAIN, ECONNREFUSED, EINVAL, EPERM
from struct import pack
from typing import TYPE_CHECKING, Final

from sandlock_notif.action import Errno, Value
from sandlock_notif.errors import NotifError, Refusal, VanishedError
from sandlock_notif.handlers.network.addresses import AF_UNIX, AF_UNSPEC, family_of
from sandlock_notif.handlers.network.pinning import Pending, look
from sandlock_sys import sockets
from sandlock_sys.constants.openat2 import Resolve
from sandlock_sys.errors import SyscallError
from sandlock_sys.openat2 import openat2

if TYPE_CHECKING:
    from sandlock_arch import Architecture
    from sandlock_notif.action import Action
    from sandlock_notif.deputies import Deputies
    from sandlock_notif.handlers.network.inside import Inside
    from sandlock_notif.request import Request
    from sandlock_sys.sockets import Socket

__all__ = ["UnixPeers", "child_path", "parse_unix", "same_view"]

_DGRAM: Final = 2  # SOCK_DGRAM, linux/net.h
_PATH_MAX: Final = 108  # UNIX_PATH_MAX, linux/un.h
_SOL_SOCKET: Final = 1  # asm-generic/socket.h
_SO_SNDTIMEO: Final = 21  # asm-generic/socket.h
_WALKS = 64  # in a root, before a `..` that a rename disturbed each time is given up
_TURN = pack("=qq", 0, 50_000)  # how long a worker waits for a full backlog at a time
_OWN_MAX: Final = 1024  # sockets bound inside that are remembered
_PATH_ONLY: Final = os.O_PATH | os.O_CLOEXEC
_AS_CHILD: Final = Resolve.IN_ROOT | Resolve.NO_MAGICLINKS


def parse_unix(raw: bytes) -> bytes:
    """Return the path of a struct sockaddr_un, or the abstract name with its NUL in front (unix_validate_addr)."""
    if family_of(raw) != AF_UNIX or not 2 < len(raw) <= 2 + _PATH_MAX:
        raise Refusal(EINVAL)
    name = raw[2:]
    return name if name[:1] == b"\0" else name.partition(b"\0")[0]


def same_view(tid: int) -> bool:
    """Tell whether a thread has this process's mounts and root, so that a path means the same to both."""
    try:
        mine, its = os.stat("/proc/self/root"), os.stat(f"/proc/{tid}/root")
        spaces = os.readlink("/proc/self/ns/mnt"), os.readlink(f"/proc/{tid}/ns/mnt")
    except OSError as error:
        raise VanishedError from error
    return os.path.samestat(mine, its) and spaces[0] == spaces[1]


def child_path(request: Request, path: bytes) -> bytes:
    """Return `path` from the child's root."""
    if path.startswith(b"/"):
        return path
    try:
        cwd = os.readlink(f"/proc/{request.tid}/cwd".encode())
    except OSError as error:
        raise VanishedError from error
    return cwd + b"/" + path


class UnixPeers:
    """The Unix sockets that a sandbox may reach.

    Arguments:
        allowed: paths of sockets outside, as they are now; links in them are followed once, here.
        inside: the sandbox's own sockets.

    Attributes:
        by_path: socket files may be reached and made. Not where paths mean something else than to the kernel.
        workers: makes the calls that may wait a moment; set when the table is attached.

    """

    def __init__(self, allowed: Iterable[str], inside: Inside) -> None:
        self._allowed = [os.path.realpath(os.fsencode(path)) for path in allowed]
        self._inside = inside
        self._own: dict[tuple[int, int], int] = {}  # identity of a socket file -> fd that keeps it from being reused
        self.by_path = True
        self.workers: Deputies | None = None
        self.arch: Architecture | None = None

    def adopt(self, fd: int) -> None:
        """Remember the socket file behind an O_PATH fd, which is taken over, as bound inside."""
        status = os.fstat(fd)
        previous = self._own.pop((status.st_dev, status.st_ino), None)
        if previous is not None:
            os.close(previous)
        self._own[status.st_dev, status.st_ino] = fd
        for key, held in list(self._own.items()):
            if len(self._own) > _OWN_MAX or (len(self._own) > _OWN_MAX // 2 and not os.fstat(held).st_nlink):
                os.close(self._own.pop(key))

    def connect(self, request: Request, pinned: Socket, raw: bytes) -> Action | Pending:
        """Connect a Unix socket to the copied name `raw`."""
        if family_of(raw) == AF_UNSPEC and pinned.kind == _DGRAM:
            error = sockets.connect(pinned.fd, raw)
            return Errno(error) if error else Value(0)
        parse_unix(raw)
        return Pending(self._connect(request, pinned, raw), pinned)

    @asynccontextmanager
    async def reach(self, request: Request, pinned: Socket, raw: bytes, errno: int) -> AsyncIterator[bytes]:
        """Give the address by which the socket that `raw` names can be reached from here, if it may be."""
        name = parse_unix(raw)
        self._inside.add(pinned.cookie)
        if name.startswith(b"\0"):
            self._judge_abstract(name, errno)
            yield raw
            return
        if not self.by_path:
            raise Refusal(errno, "socket files are not reached in a root, mounts or a branch that the supervisor shows")
        fd = await self._locate(request, name)
        try:
            self._judge(fd, errno)
            yield AF_UNIX.to_bytes(2, "little") + b"/proc/self/fd/%d\0" % fd
        finally:
            os.close(fd)

    async def _connect(self, request: Request, pinned: Socket, raw: bytes) -> Action:
        async with self.reach(request, pinned, raw, ECONNREFUSED) as address:
            if pinned.kind == _DGRAM:  # it has no backlog to wait for
                error = sockets.connect(pinned.fd, address)
                answer: Action = Errno(error) if error else Value(0)
            else:
                answer = await self._connect_stream(request, pinned, address)
        self._inside.note_abstract(pinned)  # connecting names a socket with SO_PASSCRED
        return answer

    async def _connect_stream(self, request: Request, pinned: Socket, address: bytes) -> Action:
        """Connect in a worker, which waits for a full backlog a moment at a time: it can always be ended.

        Also for a caller that does not wait: the program may have cleared O_NONBLOCK since (NOT-14). It gets one turn.
        """
        loop = asyncio.get_running_loop()
        timeout_s = sockets.send_timeout(pinned.fd)
        end = None if timeout_s is None else loop.time() + timeout_s
        before = sockets.get_option(pinned.fd, _SOL_SOCKET, _SO_SNDTIMEO, len(_TURN))
        sockets.set_option(pinned.fd, _SOL_SOCKET, _SO_SNDTIMEO, _TURN)
        try:
            while True:
                error = -await self._work("connect", pinned.fd, address, len(address))
                if error != EAGAIN:
                    return Errno(error) if error else Value(0)
                if pinned.nonblocking:
                    return Errno(EAGAIN)
                look(request)
                if end is not None and loop.time() >= end:
                    return Errno(EAGAIN)
        finally:
            sockets.set_option(pinned.fd, _SOL_SOCKET, _SO_SNDTIMEO, before)

    async def _work(self, call: str, *arguments: int | bytes) -> int:
        if self.workers is None or self.arch is None:
            raise Refusal(EPERM, "there is no worker to make the call")
        try:
            done = await self.workers.call(self.arch.syscalls[call], *arguments)
        except NotifError as error:
            raise Refusal(EAGAIN, str(error)) from error
        return done.result

    async def _locate(self, request: Request, path: bytes) -> int:
        """Return an O_PATH fd of what `path` names to the child. A dead file server stalls a worker, never the loop."""
        whole = child_path(request, path)
        try:
            root = os.open(f"/proc/{request.tid}/root", _PATH_ONLY)
        except OSError as error:
            raise VanishedError from error
        try:
            if not request.waits():
                raise VanishedError
            how = pack("=QQQ", _PATH_ONLY, 0, _AS_CHILD)  # struct open_how, linux/openat2.h, 5.6
            fd = -EAGAIN
            for _ in range(_WALKS):
                fd = await self._work("openat2", root, whole, how, len(how))
                if fd != -EAGAIN:
                    break
        finally:
            os.close(root)
        if fd < 0:
            raise Refusal(-fd)
        return fd

    def _judge(self, fd: int, errno: int) -> None:
        status = os.fstat(fd)
        if not stat.S_ISSOCK(status.st_mode):
            raise Refusal(ECONNREFUSED)
        if (status.st_dev, status.st_ino) in self._own:
            return
        for path in self._allowed:
            # Without links: where the sandbox may write to a folder of it, it must not lead to another socket by one.
            with suppress(SyscallError):
                named = openat2(-100, path, _PATH_ONLY, Resolve.NO_SYMLINKS | Resolve.NO_MAGICLINKS)
                try:
                    if os.path.samestat(os.fstat(named), status):
                        return
                finally:
                    os.close(named)
        path = os.readlink(f"/proc/self/fd/{fd}".encode())
        raise Refusal(errno, f"the unix socket {os.fsdecode(path)} is not allowed: --unix-allow {os.fsdecode(path)}")

    def _judge_abstract(self, name: bytes, errno: int) -> None:
        shown = "@" + name[1:].decode("utf-8", "backslashreplace")
        try:
            owner = self._inside.abstract_owner(name)
        except OSError as error:
            raise Refusal(errno, f"whose the abstract socket {shown} is cannot be told: {error}") from error
        if owner is None:
            raise Refusal(errno, f"the abstract socket {shown} is not the sandbox's own")

    def close(self) -> None:
        """Free what is held."""
        while self._own:
            os.close(self._own.popitem()[1])
