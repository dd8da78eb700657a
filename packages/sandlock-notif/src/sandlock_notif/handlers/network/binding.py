"""bind(2), listen(2), getsockname(2) and getpeername(2) of IP sockets: the ports that a program may take, and has."""

from __future__ import annotations

import socket
from dataclasses import replace
from errno import EACCES, EADDRINUSE
from typing import TYPE_CHECKING

from sandlock_notif.action import Errno, Value
from sandlock_notif.errors import Refusal
from sandlock_notif.handlers.network.addresses import AF_INET, Inet, bind_target
from sandlock_notif.handlers.network.gate import STREAM, protocol_of
from sandlock_sys import sockets
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif.action import Action
    from sandlock_notif.handlers.network.gate import Gate, Protocol
    from sandlock_notif.handlers.network.ports import PortMap
    from sandlock_sys.sockets import Socket

__all__ = ["Binder"]


class Binder:
    """Binds IP sockets of one sandbox.

    Arguments:
        gate: has the rules, and the sandbox's own sockets.
        ports: the sandbox's own port space.

    Attributes:
        on_bound: told which protocol, port inside and port outside a socket of ours got.
        probes: UDP sockets are there for ping alone, and may not be bound.

    """

    def __init__(self, gate: Gate, ports: PortMap) -> None:
        self._gate = gate
        self._ports = ports
        self.on_bound: Callable[[str, int, int, int], None] = _nobody
        self.probes = False

    def bind(self, pinned: Socket, raw: bytes) -> Action:
        """Bind a socket to the copied address `raw`.

        Port 0 is free: the kernel picks a port as it does for every connection, and `listen` asks again.
        """
        protocol = protocol_of(pinned, EACCES)
        asked = bind_target(pinned.domain, raw)
        if self.probes and protocol == "udp":
            raise Refusal(EACCES, "no rule names UDP")
        if asked.port and protocol != "icmp":
            self._check(asked.port, f"binding {protocol} port {asked.port}")
        self._gate.inside.add(pinned.cookie)
        if protocol == "icmp" or not asked.port:
            return _outcome(sockets.bind(pinned.fd, asked.pack()))
        if self._ports.enabled and self._ports.taken(protocol, asked.port):
            return Errno(EADDRINUSE)
        error = EADDRINUSE if self._is_foreign(protocol, asked) else sockets.bind(pinned.fd, asked.pack())
        if error == EADDRINUSE and self._ports.enabled and not self._is_own(protocol, asked):
            return self._bind_elsewhere(protocol, pinned, asked)
        if not error and protocol == "udp":  # TCP ports are reached when somebody listens
            self._note(protocol, pinned)
        return _outcome(error)

    def listen(self, pinned: Socket, backlog: int) -> Action:
        """Let a socket listen if the port that it has, or would get, may be bound; `bind` may not have been called."""
        if pinned.kind == STREAM:
            protocol = protocol_of(pinned, EACCES)
            port = bind_target(pinned.domain, sockets.name_of(pinned.fd)).port
            port = self._ports.asked_port(protocol, port, pinned.cookie)
            if not self._gate.rules.verdict_on_bind(0).allowed:
                self._check(port, f"listening on {protocol} port {port}" if port else "listening on any port")
            self._gate.inside.add(pinned.cookie)
            error = sockets.listen(pinned.fd, backlog)
            if not error:
                self._note(protocol, pinned)
            return _outcome(error)
        return _outcome(sockets.listen(pinned.fd, backlog))

    def listen_unix(self, pinned: Socket, backlog: int) -> Action:
        """Let a Unix socket listen: its name was judged when it was bound."""
        self._gate.inside.add(pinned.cookie)
        return _outcome(sockets.listen(pinned.fd, backlog))

    def own_name(self, pinned: Socket) -> bytes | None:
        """Return what getsockname(2) tells where that is not what the kernel would; None where it is."""
        if not self._ports.enabled:
            return None
        return self._translated(
            pinned, sockets.name_of, lambda kind, real: self._ports.virtual_name(kind, real, pinned.cookie)
        )  # fmt: skip

    def peer_name(self, pinned: Socket) -> bytes | None:
        """Return what getpeername(2) tells where that is not what the kernel would; None where it is."""
        return self._translated(pinned, sockets.peer_of, self._ports.virtual_peer) if self._ports.enabled else None

    @staticmethod
    def _translated(
        pinned: Socket, read: Callable[[int], bytes], translate: Callable[[str, Inet], Inet]
    ) -> bytes | None:
        try:
            real = bind_target(pinned.domain, read(pinned.fd))
        except (SyscallError, Refusal):
            return None  # the kernel says why
        virtual = translate(protocol_of(pinned, EACCES), real)
        return None if virtual == real else virtual.pack()

    def _check(self, port: int, what: str) -> None:
        verdict = self._gate.rules.verdict_on_bind(port)
        if not verdict.allowed:
            why = f"is denied by {verdict.rule}" if verdict.rule else f"is not allowed: --net-allow-bind {port}"
            raise Refusal(EACCES, f"{what} {why}")

    def _is_foreign(self, protocol: Protocol, asked: Inet) -> bool:
        """Tell whether a datagram port is somebody's outside, from whom a shared one would be stolen (NET-08).

        TCP ports are shared by SO_REUSEPORT only, which the filter refuses. Datagram ports are by SO_REUSEADDR too.
        No option of the socket is asked for it: the program may change them until the moment of the bind.
        """
        if protocol != "udp" or asked.canonical().is_multicast():
            return False
        places = [asked.canonical()]
        if places[0].family != AF_INET and not any(asked.address):  # for IPv4 as well, unless IPV6_V6ONLY says no
            places.append(Inet(AF_INET, bytes(4), asked.port))
        return any(_in_use(place) and not self._is_own(protocol, place) for place in places)

    def _is_own(self, protocol: Protocol, asked: Inet) -> bool:
        """Tell whether the sandbox has the port already."""
        try:
            owner = self._gate.inside.owner(protocol, asked.canonical())
        except OSError:
            return False
        return owner is not None and owner in self._gate.inside

    def _bind_elsewhere(self, protocol: Protocol, pinned: Socket, asked: Inet) -> Action:
        """Bind a free port instead of one that is taken, on loopback: the network was promised `asked` only."""
        address = asked.address
        if asked.address == bytes(len(address)):
            address = bytes((127, 0, 0, 1)) if len(address) == 4 else bytes(15) + b"\1"
        error = sockets.bind(pinned.fd, replace(asked, address=address, port=0).pack())
        if error:
            return Errno(error)
        real = bind_target(pinned.domain, sockets.name_of(pinned.fd)).port
        self._ports.add(protocol, asked, real, pinned.cookie)
        if protocol == "udp":
            self._note(protocol, pinned)
        return Value(0)

    def _note(self, protocol: Protocol, pinned: Socket) -> None:
        """Tell who asks from outside of a port at which the program is reached from now on."""
        name = bind_target(pinned.domain, sockets.name_of(pinned.fd))
        inside = self._ports.asked_port(protocol, name.port, pinned.cookie)
        if inside == name.port:
            self._ports.add_plain(protocol, name, pinned.cookie)
        self.on_bound(protocol, inside, name.port, pinned.fd)


def _in_use(place: Inet) -> bool:
    """Tell whether a datagram socket that shares nothing could not be bound there."""
    inet = place.family == AF_INET
    with socket.socket(socket.AF_INET if inet else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        if not inet:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return sockets.bind(probe.fileno(), place.pack()) == EADDRINUSE


def _nobody(protocol: str, inside: int, outside: int, fd: int) -> None:
    """Tell nobody."""


def _outcome(error: int) -> Action:
    return Errno(error) if error else Value(0)
