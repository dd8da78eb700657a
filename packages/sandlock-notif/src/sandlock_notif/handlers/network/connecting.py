"""connect(2) of IP sockets, on behalf: decided on a copy of the address, done on the child's own socket.

Nothing waits in the loop. A socket that blocks is connected without waiting all the same (`sockets.start_connect`),
awaited, and its error fetched only while the caller still waits for it: whoever was interrupted by a signal finds the
connection going on, and its outcome in SO_ERROR, as with the kernel.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from errno import EALREADY, ECONNREFUSED, EINPROGRESS, EOPNOTSUPP
from struct import pack
from typing import TYPE_CHECKING, Final

from sandlock_notif.action import Errno, Value
from sandlock_notif.errors import Refusal
from sandlock_notif.handlers.network.addresses import AF_INET, AF_INET6, Inet, bind_target, connect_target
from sandlock_notif.handlers.network.gate import protocol_of
from sandlock_notif.handlers.network.pinning import Pending, wait_until_writable
from sandlock_sys import sockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_arch import Architecture
    from sandlock_notif.action import Action
    from sandlock_notif.deputies import Deputies
    from sandlock_notif.handlers.network.gate import Gate
    from sandlock_notif.handlers.network.ports import PortMap
    from sandlock_notif.request import Request
    from sandlock_sys.sockets import Socket

__all__ = ["Connector", "Intercept"]

_SOL_SOCKET: Final = 1  # asm-generic/socket.h
_SO_SNDTIMEO: Final = 21  # asm-generic/socket.h
_SHORT = pack("=qq", 0, 1)  # one tick of the kernel's clock
_PEERS_MAX: Final = 65536
_BACKLOG: Final = 16

if TYPE_CHECKING:
    Intercept = Callable[[socket.socket, tuple[str, int]], object]


class Connector:
    """Connects IP sockets of one sandbox.

    Arguments:
        gate: who may be reached.
        ports: the sandbox's own port space.
        divert: tells who gets the other end of a TCP connection to a destination, and where it was to go; None: nobody.

    Attributes:
        peers: the address that an intercepted socket was connected to, by its cookie.
        workers: makes the calls that may wait a moment; set when the table is attached.
        probes: UDP sockets are there for ping alone.

    """

    def __init__(self, gate: Gate, ports: PortMap, divert: Callable[[Inet], Intercept | None] = lambda _: None) -> None:
        self._gate = gate
        self._ports = ports
        self._diverted = divert
        self.peers: dict[int, Inet] = {}
        self.workers: Deputies | None = None
        self.probes = False
        self.arch: Architecture | None = None

    def connect(self, request: Request, pinned: Socket, raw: bytes) -> Action | Pending:
        """Connect `pinned`, which the result owns if it is pending, to `raw`."""
        protocol = protocol_of(pinned, ECONNREFUSED)
        target = connect_target(pinned.domain, raw, stream=protocol == "tcp")
        if target is None:
            return _outcome(sockets.connect(pinned.fd, raw))  # AF_UNSPEC: it waits for nobody
        target = target.canonical()
        target = self._ports.real_target(protocol, target)
        self._gate.check_live(request, protocol, target, ECONNREFUSED)
        intercept = self._diverted(target) if protocol == "tcp" else None
        if intercept is not None:
            return Pending(self._divert(pinned, target, intercept), pinned)
        own = None if protocol == "tcp" else lambda: _own_address(pinned)
        try:
            ruled = self._gate.check(protocol, target, own, ECONNREFUSED)
        except Refusal:
            if protocol != "udp" or not self._gate.is_pinged(target):
                if protocol == "udp" and self.probes:
                    self._gate.check("icmp", target, None, ECONNREFUSED)  # that refusal names the flag for ping
                raise
            return _outcome(_tell_source(pinned, target))
        address = target.pack()
        if ruled and protocol == "tcp":
            self._gate.remember(pinned, raw, address)
        if protocol != "tcp":
            self._gate.inside.add(pinned.cookie)
            return _outcome(sockets.connect(pinned.fd, address))
        # Never connect(2) here: it looks at O_NONBLOCK, which the program may have changed since (NOT-14).
        if pinned.nonblocking:
            error = sockets.begin_connect(pinned.fd, address)
            return _outcome(error) if error != EOPNOTSUPP else Pending(self._once(pinned, address), pinned)
        error = sockets.start_connect(pinned.fd, address)
        if error not in (EALREADY, EOPNOTSUPP):
            return _outcome(error)
        return Pending(self._wait(request, pinned, address, error), pinned)

    async def _wait(self, request: Request, pinned: Socket, address: bytes, error: int) -> Action:
        timeout_s = sockets.send_timeout(pinned.fd)
        quick = error == EALREADY
        while True:
            if not quick:
                error = await self._try(pinned, address)
                if error != EINPROGRESS:
                    return _outcome(error)
            if not await wait_until_writable(request, pinned.fd, timeout_s):
                return Errno(EINPROGRESS)  # what SO_SNDTIMEO does (socket(7))
            if quick:
                error = sockets.start_connect(pinned.fd, address)
                if error != EALREADY:
                    return _outcome(error)

    async def _once(self, pinned: Socket, address: bytes) -> Action:
        return _outcome(await self._try(pinned, address))

    async def _try(self, pinned: Socket, address: bytes) -> int:
        """Connect for a moment, in a thread that may wait: for hosts without the client side of fast open."""
        if self.workers is None or self.arch is None:
            raise Refusal(ECONNREFUSED, "there is no deputy to connect with")
        before = sockets.get_option(pinned.fd, _SOL_SOCKET, _SO_SNDTIMEO, len(_SHORT))
        sockets.set_option(pinned.fd, _SOL_SOCKET, _SO_SNDTIMEO, _SHORT)
        try:
            done = await self.workers.call(self.arch.syscalls["connect"], pinned.fd, address, len(address))
        finally:
            sockets.set_option(pinned.fd, _SOL_SOCKET, _SO_SNDTIMEO, before)
        return -done.result

    async def _divert(self, pinned: Socket, target: Inet, intercept: Intercept) -> Action:
        """Connect to a socket that listens for this one connection only, and hand over its other end."""
        if pinned.domain == AF_INET:
            family, loopback = AF_INET, bytes((127, 0, 0, 1))
        elif len(target.canonical().address) == 16 and ":" in target.host:
            family, loopback = AF_INET6, bytes(15) + b"\1"
        else:
            family, loopback = AF_INET6, bytes(10) + b"\xff\xff" + bytes((127, 0, 0, 1))
        here = Inet(family, loopback, 0)
        with socket.socket(socket.AF_INET if "." in here.host else socket.AF_INET6) as listener:
            listener.bind((here.host, 0))
            listener.setblocking(False)
            listener.listen(_BACKLOG)
            address = Inet(family, loopback, listener.getsockname()[1]).pack()
            error = (sockets.begin_connect if pinned.nonblocking else sockets.start_connect)(pinned.fd, address)
            if error == EOPNOTSUPP:
                error = await self._try(pinned, address)
            if error not in (0, EINPROGRESS):
                return _outcome(error)
            connection = _accept_from(listener, pinned)
        self.peers[pinned.cookie] = target
        while len(self.peers) > _PEERS_MAX:
            del self.peers[next(iter(self.peers))]
        intercept(connection, (target.host, target.port))
        return _outcome(error)


def _accept_from(listener: socket.socket, pinned: Socket) -> socket.socket:
    """Accept the connection of exactly this socket; whoever else found the port is dropped."""
    own = _own_address(pinned)
    try:
        while True:
            connection, (host, port, *_) = listener.accept()
            if (host, port) == (own.host, own.port):
                return connection
            connection.close()
    except OSError as error:
        raise Refusal(ECONNREFUSED, f"the connection to the proxy failed: {error}") from error


def _tell_source(pinned: Socket, target: Inet) -> int:
    """Give a datagram socket the address that `target` is reached from; return 0 or a positive errno.

    So ping learns its own address: it connects a UDP socket to where it will ping, and asks for the socket's name. This
    one is connected to port 0 of this machine's own address: nobody can have that port, so it reaches nobody.
    """
    with socket.socket(pinned.domain, socket.SOCK_DGRAM) as probe:
        error = sockets.connect(probe.fileno(), target.pack())
        if error:
            return error
        source = bind_target(pinned.domain, sockets.name_of(probe.fileno()))
    return sockets.connect(pinned.fd, replace(source, port=0).pack())


def _own_address(pinned: Socket) -> Inet:
    return bind_target(pinned.domain, sockets.name_of(pinned.fd))


def _outcome(error: int) -> Action:
    return Errno(error) if error else Value(0)
