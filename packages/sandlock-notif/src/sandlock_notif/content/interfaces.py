"""Answers to route netlink requests: the interfaces and addresses of a machine that the sandbox may know. Pure.

Programs list them to find out which families work (glibc's resolver), to name addresses to bind (getifaddrs) or to show
them (`ip addr`). What they get is a loopback interface, and one more that stands for the way out where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import ENODEV, EOPNOTSUPP, EPERM
from ipaddress import ip_interface
from struct import Struct, pack
from typing import Final

__all__ = ["LOOPBACK", "Interface", "answer", "way_out"]

_HEADER = Struct("=IHHII")  # struct nlmsghdr, linux/netlink.h
_LINK = Struct("=BxHiII")  # struct ifinfomsg, linux/rtnetlink.h
_ADDRESS = Struct("=BBBBI")  # struct ifaddrmsg, linux/if_addr.h
_ATTRIBUTE = Struct("=HH")  # struct nlattr

_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_MULTI, _DUMP, _ACK = 2, 0x300, 4  # NLM_F_MULTI, NLM_F_DUMP, NLM_F_ACK
_NEW_LINK, _GET_LINK, _NEW_ADDRESS, _GET_ADDRESS = 16, 18, 20, 22  # RTM_*, linux/rtnetlink.h
_FIRST_MESSAGE: Final = 16  # RTM_BASE
_UP, _IS_LOOPBACK, _RUNNING, _LOWER_UP = 1, 8, 0x40, 0x10000  # IFF_*, linux/if.h
_ETHER, _LOOPBACK_TYPE = 1, 772  # ARPHRD_*, linux/if_arp.h
_IFLA_ADDRESS, _IFLA_BROADCAST, _IFLA_IFNAME, _IFLA_MTU, _IFLA_QDISC = 1, 2, 3, 4, 6  # linux/if_link.h
_IFLA_TXQLEN, _IFLA_OPERSTATE = 13, 16  # linux/if_link.h
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_FLAGS = 1, 2, 3, 8  # linux/if_addr.h
_PERMANENT: Final = 0x80  # IFA_F_PERMANENT
_HOST_SCOPE, _GLOBAL_SCOPE = 254, 0  # RT_SCOPE_*
_REQUESTS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface as a program sees it; `addresses` are `ADDRESS/PREFIX`."""

    index: int
    name: str
    addresses: tuple[str, ...]
    loopback: bool = False
    mtu: int = 1500


LOOPBACK: Final = Interface(1, "lo", ("127.0.0.1/8", "::1/128"), loopback=True, mtu=65536)


def way_out(*, ipv4: bool, ipv6: bool) -> Interface | None:
    """Return the interface that stands for the way out; its addresses are nobody's, and say which families work."""
    addresses = ("192.0.0.8/32",) * ipv4 + ("fdff::8/128",) * ipv6  # RFC 7600, 4.8: a dummy address; RFC 4193
    return Interface(2, "eth0", addresses) if addresses else None


def answer(request: bytes, interfaces: tuple[Interface, ...], port: int) -> list[bytes]:
    """Return the datagrams that answer one: of each request in it what is known, or an error.

    Arguments:
        request: what the program sent.
        interfaces: what it may know.
        port: the port id that its socket has, which answers carry.

    """
    replies: list[bytes] = []
    at = 0
    while at + _HEADER.size <= len(request) and len(replies) < _REQUESTS_MAX:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(request, at)
        if length < _HEADER.size or at + length > len(request):
            break
        if kind >= _FIRST_MESSAGE:
            body = request[at + _HEADER.size : at + length]
            replies += _reply(kind, flags, sequence, body, request[at : at + _HEADER.size], interfaces, port)
        at += (length + 3) & ~3
    return replies


def _reply(
    kind: int, flags: int, sequence: int, body: bytes, head: bytes, interfaces: tuple[Interface, ...], port: int
) -> list[bytes]:
    dump = flags & _DUMP == _DUMP
    multi = _MULTI if dump else 0
    family = body[0] if body else 0
    found: list[bytes] = []
    if kind == _GET_LINK:
        wanted = interfaces if dump else tuple(one for one in interfaces if _is_meant(one, body))
        if not wanted:
            return [_error(-ENODEV, head, sequence, port)]
        found = [_message(_NEW_LINK, multi, sequence, port, _link(one)) for one in wanted]
    elif kind == _GET_ADDRESS and dump:
        found = [
            _message(_NEW_ADDRESS, multi, sequence, port, _address(one, text))
            for one in interfaces
            for text in one.addresses
            if family in (0, _family(text))
        ]
    elif not (dump and kind & 3 == 2):  # RTM_GET*: nothing to list, which is no error
        return [_error(-EPERM if kind & 3 != 2 else -EOPNOTSUPP, head, sequence, port)]
    if not dump:
        return [*found, _error(0, head, sequence, port)] if flags & _ACK else found
    # One datagram for what is listed, one for its end, as the kernel does.
    end = _message(_DONE, _MULTI, sequence, port, pack("=i", 0))
    return [b"".join(found), end] if found else [end]


def _is_meant(interface: Interface, body: bytes) -> bool:
    if len(body) < _LINK.size:
        return False
    index = _LINK.unpack_from(body)[2]
    if index:
        return bool(index == interface.index)
    at = _LINK.size
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            return False
        if kind == _IFLA_IFNAME:
            return body[at + _ATTRIBUTE.size : at + length].rstrip(b"\0") == interface.name.encode()
        at += (length + 3) & ~3
    return False


def _family(address: str) -> int:
    return 2 if ip_interface(address).version == 4 else 10  # AF_INET, AF_INET6


def _link(interface: Interface) -> bytes:
    kind = _LOOPBACK_TYPE if interface.loopback else _ETHER
    flags = _UP | _RUNNING | _LOWER_UP | (_IS_LOOPBACK if interface.loopback else 0)
    hardware = bytes(6) if interface.loopback else bytes((2, 0, 0, 0, 0, 1))
    return (
        _LINK.pack(0, kind, interface.index, flags, 0)
        + _attribute(_IFLA_IFNAME, interface.name.encode() + b"\0")
        + _attribute(_IFLA_TXQLEN, pack("=I", 1000))
        + _attribute(_IFLA_OPERSTATE, pack("=B", 0 if interface.loopback else 6))
        + _attribute(_IFLA_MTU, pack("=I", interface.mtu))
        + _attribute(_IFLA_QDISC, b"noqueue\0")
        + _attribute(_IFLA_ADDRESS, hardware)
        + _attribute(_IFLA_BROADCAST, bytes(6) if interface.loopback else b"\xff" * 6)
    )


def _address(interface: Interface, text: str) -> bytes:
    parsed = ip_interface(text)
    scope = _HOST_SCOPE if interface.loopback else _GLOBAL_SCOPE
    head = _ADDRESS.pack(_family(text), parsed.network.prefixlen, _PERMANENT, scope, interface.index)
    own = _attribute(_IFA_ADDRESS, parsed.ip.packed)
    if parsed.version == 4:
        own += _attribute(_IFA_LOCAL, parsed.ip.packed) + _attribute(_IFA_LABEL, interface.name.encode() + b"\0")
    return head + own + _attribute(_IFA_FLAGS, pack("=I", _PERMANENT))


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def _message(kind: int, flags: int, sequence: int, port: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, port) + body


def _error(code: int, head: bytes, sequence: int, port: int) -> bytes:
    return _message(_ERROR, 0, sequence, port, pack("=i", code) + head)
