"""Socket addresses as the kernel reads them: which family counts, how short they may be, what they mean. Pure."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from errno import EAFNOSUPPORT, EINVAL
from struct import Struct
from typing import Final

from sandlock_notif.errors import Refusal
from sandlock_policy.matching import canonical_address

__all__ = [
    "AF_INET",
    "AF_INET6",
    "AF_NETLINK",
    "AF_UNIX",
    "AF_UNSPEC",
    "Inet",
    "bind_target",
    "connect_target",
    "family_of",
    "send_target",
]

# linux/socket.h
AF_UNSPEC: Final = 0
AF_UNIX: Final = 1
AF_INET: Final = 2
AF_INET6: Final = 10
AF_NETLINK: Final = 16

_FAMILY = Struct("=H")
_IN = Struct("!H4s8x")  # struct sockaddr_in behind the family, linux/in.h
_IN6 = Struct("!HI16s")  # struct sockaddr_in6 behind the family, without the scope, linux/in6.h
_SCOPE = Struct("=I")
_SIN = 16
_SIN6_SHORT = 24  # SIN6_LEN_RFC2133, net/ipv6.h: without a scope
_SIN6 = 28
_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Inet:
    """An IPv4 or IPv6 socket address.

    Attributes:
        family: AF_INET or AF_INET6, of the structure.
        address: 4 or 16 bytes.
        port: in host order.
        flow: sin6_flowinfo.
        scope: sin6_scope_id: which interface a link-local address is meant on.

    """

    family: int
    address: bytes
    port: int
    flow: int = 0
    scope: int = 0

    def pack(self) -> bytes:
        """Return the structure, rebuilt: nothing of what the child wrote is in it but the fields above."""
        family = _FAMILY.pack(self.family)
        if self.family == AF_INET:
            return family + _IN.pack(self.port, self.address)
        return family + _IN6.pack(self.port, self.flow, self.address) + _SCOPE.pack(self.scope)

    def canonical(self) -> Inet:
        """Return where the kernel sends what is sent there, as the rules see it: loopback for the unspecified address.

        0.0.0.0 would lead to the address that the socket is bound to; the rules were asked about 127.0.0.1.
        """
        address = canonical_address(self.address)
        if len(address) < len(self.address):
            address = _MAPPED + address
        return replace(self, address=address) if address != self.address else self

    @property
    def host(self) -> str:
        """The address as text, a mapped one as IPv4."""
        if self.family == AF_INET:
            return socket.inet_ntop(socket.AF_INET, self.address)
        if self.address.startswith(_MAPPED):
            return socket.inet_ntop(socket.AF_INET, self.address[12:])
        return socket.inet_ntop(socket.AF_INET6, self.address)

    def is_loopback(self) -> bool:
        """Tell whether it is this machine's loopback, in its canonical form."""
        canonical = canonical_address(self.address)
        return canonical[0] == 127 if len(canonical) == 4 else canonical == bytes(15) + b"\1"

    def is_multicast(self) -> bool:
        """Tell whether it is a group's address."""
        canonical = canonical_address(self.address)
        return canonical[0] >> 4 == 0xE if len(canonical) == 4 else canonical[0] == 0xFF

    def endpoint(self, protocol: str) -> str:
        """Write it as a rule: `tcp://192.0.2.1:80`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{protocol}://{host}" if protocol == "icmp" else f"{protocol}://{host}:{self.port}"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def family_of(raw: bytes) -> int:
    """Return the family that an address says; EINVAL when it is too short for one."""
    if len(raw) < _FAMILY.size:
        raise Refusal(EINVAL)
    family: int = _FAMILY.unpack_from(raw)[0]
    return family


def connect_target(domain: int, raw: bytes, *, stream: bool) -> Inet | None:
    """Return what a socket of `domain` connects to by `raw`; None when it dissolves the connection (AF_UNSPEC).

    The errors are those of inet_stream_connect, inet_dgram_connect and the connects below them (net/ipv4, net/ipv6).
    """
    family = family_of(raw)
    if family == AF_UNSPEC:
        return None
    if domain == AF_INET:
        return _inet4(raw, family)
    if family == AF_INET and not stream:
        return _inet4(raw, family)
    return _inet6(raw, family)


def send_target(domain: int, raw: bytes) -> Inet | None:
    """Return where a datagram socket of `domain` sends to by `raw`; None: to its peer, as if there were no name.

    An IPv4 socket takes AF_UNSPEC for AF_INET (udp_sendmsg); an IPv6 socket takes it for no name (udpv6_sendmsg).
    """
    family = family_of(raw)
    if domain == AF_INET:
        return _inet4(raw, AF_INET if family == AF_UNSPEC else family)
    if family == AF_UNSPEC:
        return None
    if family == AF_INET:
        return _inet4(raw, family)
    if family != AF_INET6:
        raise Refusal(EINVAL)
    return _inet6(raw, family)


def bind_target(domain: int, raw: bytes) -> Inet:
    """Return what a socket of `domain` is bound to by `raw` (inet_bind, inet6_bind)."""
    family = family_of(raw)
    if domain == AF_INET6:
        return _inet6(raw, family)
    if family == AF_UNSPEC and raw[4:8] == bytes(4):  # "compatibility games": accepted for any address
        family = AF_INET
    return _inet4(raw, family)


def _inet4(raw: bytes, family: int) -> Inet:
    if len(raw) < _SIN:
        raise Refusal(EINVAL)
    if family != AF_INET:
        raise Refusal(EAFNOSUPPORT)
    port, address = _IN.unpack_from(raw, _FAMILY.size)
    return Inet(AF_INET, address, port)


def _inet6(raw: bytes, family: int) -> Inet:
    if len(raw) < _SIN6_SHORT:
        raise Refusal(EINVAL)
    if family != AF_INET6:
        raise Refusal(EAFNOSUPPORT)
    port, flow, address = _IN6.unpack_from(raw, _FAMILY.size)
    scope = _SCOPE.unpack_from(raw, _SIN6_SHORT)[0] if len(raw) >= _SIN6 else 0
    return Inet(AF_INET6, address, port, flow, scope)
