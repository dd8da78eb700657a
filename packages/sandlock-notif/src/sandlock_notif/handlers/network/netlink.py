"""Route netlink: the program gets a stand-in for the socket, and answers from us through it (NET-12).

The stand-in is one end of a pair of Unix sockets. Reading and writing it costs the supervisor nothing but the answers.
What the kernel would fill in, who a message is from, comes out right because the other end is bound to an abstract name
of zeros: read as a struct sockaddr_nl it says port 0, the kernel. The child's end is told apart by its cookie.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from contextlib import suppress
from errno import EACCES, EMFILE
from struct import pack
from typing import TYPE_CHECKING, Final

from sandlock_notif.action import InjectFd
from sandlock_notif.content.interfaces import answer
from sandlock_notif.errors import Refusal
from sandlock_notif.handlers.network.addresses import AF_NETLINK

if TYPE_CHECKING:
    from sandlock_notif.action import Action
    from sandlock_notif.content.interfaces import Interface
    from sandlock_notif.request import Request

__all__ = ["Netlink"]

_LIMIT: Final = 256  # stand-ins of one sandbox at once
_REQUEST_MAX: Final = 8192
_SO_COOKIE: Final = 57  # asm-generic/socket.h, 4.12
_SO_PASSRIGHTS: Final = 83  # asm-generic/socket.h, 6.16
_CLOEXEC: Final = 0o2000000  # SOCK_CLOEXEC
_NONBLOCK: Final = 0o4000  # SOCK_NONBLOCK
_TRIES: Final = 8


class Netlink:
    """The route netlink sockets of one sandbox.

    Arguments:
        interfaces: what the sandbox may know of the machine's.

    """

    def __init__(self, interfaces: tuple[Interface, ...]) -> None:
        self._interfaces = interfaces
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends: dict[int, tuple[socket.socket, int]] = {}  # cookie of the child's end -> ours, port id
        self._next_port = 1 << 20

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer in this loop."""
        self._loop = loop

    def open(self, request: Request) -> Action:
        """Answer socket(AF_NETLINK, SOCK_RAW or SOCK_DGRAM, NETLINK_ROUTE)."""
        loop = self._loop
        if loop is None or len(self._ends) >= _LIMIT:
            raise Refusal(EMFILE, f"there are {len(self._ends)} netlink sockets already")
        kind = request.int_arg(1)
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setblocking(False)
            with suppress(OSError):
                # An fd that came with a message would be closed here, and what the last close of a file costs is the
                # program's to choose. An older kernel passes it on.
                ours.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
            theirs.setblocking(not kind & _NONBLOCK)
            _name(ours)
            cookie = int.from_bytes(theirs.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), "little")
            self._next_port += 1
            self._ends[cookie] = (ours, self._next_port)
            loop.add_reader(ours.fileno(), self._serve, cookie)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return InjectFd(theirs.detach(), close_on_exec=bool(kind & _CLOEXEC))

    def __contains__(self, cookie: int) -> bool:
        return cookie in self._ends

    def own_name(self, cookie: int) -> bytes:
        """Return the struct sockaddr_nl that getsockname(2) tells."""
        return pack("=HHII", AF_NETLINK, 0, self._ends[cookie][1], 0)

    def peer_name(self) -> bytes:
        """Return the struct sockaddr_nl of the kernel."""
        return pack("=HHII", AF_NETLINK, 0, 0, 0)

    def close(self) -> None:
        """Close all ends."""
        for cookie in list(self._ends):
            self._drop(cookie)

    def _serve(self, cookie: int) -> None:
        ours, port = self._ends[cookie]
        try:
            request = ours.recv(_REQUEST_MAX)
        except BlockingIOError:
            return
        except OSError:
            request = b""
        if not request:  # closed: a datagram of no bytes cannot be told from it, and nobody sends one
            self._drop(cookie)
            return
        for reply in answer(request, self._interfaces, port):
            with suppress(OSError):  # it does not read: what finds no room is lost, as with the kernel
                ours.send(reply)

    def _drop(self, cookie: int) -> None:
        ours, _ = self._ends.pop(cookie)
        if self._loop is not None:
            self._loop.remove_reader(ours.fileno())
        ours.close()


def _name(end: socket.socket) -> None:
    """Bind an end to a name of exactly the size of a struct sockaddr_nl whose port id is 0."""
    for _ in range(_TRIES):
        # nl_pad and nl_pid are zero but for one byte of padding; nl_groups, which nobody looks at, makes it unique.
        with suppress(OSError):
            end.bind(b"\0" + secrets.token_bytes(1) + bytes(4) + secrets.token_bytes(4))
            return
    raise Refusal(EACCES, "no free name for a netlink socket was found")
