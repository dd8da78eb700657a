"""One canonical form per address, what other addresses it may lead to, and which ranges are private."""

from __future__ import annotations

import ipaddress

__all__ = [
    "PRIVATE_NETWORKS",
    "canonical_address",
    "canonical_value",
    "embedded_ipv4",
    "is_local",
    "is_private",
    "parse_value",
]

# An address as (4 or 6, value). IPv4 and IPv6 have tables of their own, so the two never compare equal.
Value = tuple[int, int]

_LOOPBACK_4 = 0x7F000001
_MAPPED = 0xFFFF  # RFC 4291, 2.5.5.2: ::ffff:0:0/96
_TRANSLATED = 0xFFFF0000  # RFC 2765, 2.1: ::ffff:0:0:0/96
_NAT64 = 0x0064FF9B << 64  # RFC 6052, 2.1: 64:ff9b::/96
_NAT64_LOCAL = 0x0064FF9B0001  # RFC 8215: 64:ff9b:1::/48
_6TO4 = 0x2002  # RFC 3056, 2
_TEREDO = 0x20010000  # RFC 4380, 4
_ISATAP = 0x00005EFE  # RFC 5214, 6.1, with and without the "universal" bit

# What `private` names: addresses that lead to this machine or to the network around it, never to the Internet.
PRIVATE_NETWORKS = (
    "0.0.0.0/8",  # RFC 1122, 3.2.1.3: this host; the kernel connects 0.0.0.0 to loopback
    "10.0.0.0/8",  # RFC 1918
    "100.64.0.0/10",  # RFC 6598: behind the provider's NAT; metadata of one cloud
    "127.0.0.0/8",  # RFC 1122
    "168.63.129.16/32",  # a public address that is the metadata server of one cloud
    "169.254.0.0/16",  # RFC 3927: link-local, 169.254.169.254 is the metadata address
    "172.16.0.0/12",  # RFC 1918
    "192.0.0.0/24",  # RFC 6890; metadata of one cloud
    "192.168.0.0/16",  # RFC 1918
    "198.18.0.0/15",  # RFC 2544: test networks
    "224.0.0.0/4",  # RFC 5771: multicast
    "240.0.0.0/4",  # RFC 1112, and the broadcast address
    "::/127",  # unspecified and loopback
    "64:ff9b:1::/48",  # RFC 8215: a NAT64 of the local network
    "100::/64",  # RFC 6666: discard
    "fc00::/7",  # RFC 4193: unique local; metadata of two clouds
    "fe80::/10",  # RFC 4291: link-local
    "fec0::/10",  # RFC 3879: site-local, deprecated
    "ff00::/8",  # RFC 4291: multicast
)
# The part of them that no name should lead to: the machine itself, its link, and groups.
_LOCAL_NETWORKS = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "192.0.0.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/127",
    "fd00:ec2::254/128",  # metadata of one cloud
    "fd20:ce::254/128",  # metadata of another one
    "fe80::/10",
    "ff00::/8",
)


def _spans(networks: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    parsed = [ipaddress.ip_network(text) for text in networks]
    return tuple((net.version, int(net.network_address), int(net.broadcast_address)) for net in parsed)


_PRIVATE = _spans(PRIVATE_NETWORKS)
_LOCAL = _spans(_LOCAL_NETWORKS)


def parse_value(address: str | bytes) -> Value:
    """Return the canonical form of `address`: text without a port, or the 4 or 16 bytes of a socket address.

    The zone of a scoped address (`fe80::1%eth0`) says through which interface, not whither, and is dropped.
    Raises ValueError for what is no address.
    """
    if isinstance(address, str):
        parsed = ipaddress.ip_address(address.partition("%")[0])
        return canonical_value(parsed.version, int(parsed))
    if len(address) not in (4, 16):
        raise ValueError(f"an address has 4 or 16 bytes, not {len(address)}")
    return canonical_value(4 if len(address) == 4 else 6, int.from_bytes(address, "big"))


def canonical_value(version: int, value: int) -> Value:
    """Return where the kernel sends what is sent there: IPv4 for a mapped address, loopback for the unspecified."""
    if version == 6:
        if value >> 32 == _MAPPED:
            version, value = 4, value & 0xFFFFFFFF
        elif value == 0:
            return 6, 1
    if version == 4 and value == 0:
        return 4, _LOOPBACK_4
    return version, value


def canonical_address(address: str | bytes) -> bytes:
    """Return the 4 or 16 bytes of the canonical form of `address`; raises ValueError for what is no address."""
    version, value = parse_value(address)
    return value.to_bytes(4 if version == 4 else 16, "big")


def embedded_ipv4(value: int) -> tuple[int, ...]:
    """Return the IPv4 addresses that a tunnel or a translator may make of the IPv6 address `value`.

    They count when something is denied, never when it is allowed: which of them is meant, and whether anything
    translates at all, only the network knows.
    """
    found: list[int] = []
    high = value >> 32
    low = value & 0xFFFFFFFF
    if high in (0, _TRANSLATED, _NAT64):  # 0: RFC 4291, 2.5.5.1, ::a.b.c.d
        # A socket that is bound to a mapped address reaches 127.0.0.1 by `::` (net/ipv6/tcp_ipv6.c).
        found.append(_LOOPBACK_4 if value in (0, 1) else low)
    elif value >> 80 == _NAT64_LOCAL:
        # RFC 6052, 2.2: bits 64 to 71 are zero and lie inside the address for prefixes of 48 and 56 bits.
        found += [
            (value >> 64 & 0xFFFF) << 16 | value >> 40 & 0xFFFF,
            (value >> 64 & 0xFF) << 24 | value >> 32 & 0xFFFFFF,
            value >> 24 & 0xFFFFFFFF,
            low,
        ]
    elif value >> 112 == _6TO4:
        found.append(value >> 80 & 0xFFFFFFFF)
    elif value >> 96 == _TEREDO:
        found += [value >> 64 & 0xFFFFFFFF, low ^ 0xFFFFFFFF]
    if (high & 0xFDFFFFFF) == _ISATAP:
        found.append(low)
    return tuple(one or _LOOPBACK_4 for one in found)


def is_private(address: str | bytes) -> bool:
    """Tell whether `address`, or an IPv4 address inside it, is of the ranges that `private` names."""
    return _is_within(_PRIVATE, parse_value(address))


def is_local(address: str | bytes) -> bool:
    """Tell whether `address` is this machine, its link, a group or a metadata server: nothing a name should lead to."""
    return _is_within(_LOCAL, parse_value(address))


def _is_within(spans: tuple[tuple[int, int, int], ...], value: Value) -> bool:
    values = [value]
    if value[0] == 6:
        values += [(4, one) for one in embedded_ipv4(value[1])]
    return any(version == kind and first <= one <= last for version, one in values for kind, first, last in spans)
