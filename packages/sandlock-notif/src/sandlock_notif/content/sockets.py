"""The tables of sockets in /proc/net with the sandbox's own lines only, and those of interfaces. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Final

__all__ = ["HEADS", "SOCKET_TABLES", "devices_text", "if_inet6_text", "own_sockets"]

SOCKET_TABLES: Final = {
    b"tcp": 9, b"tcp6": 9, b"udp": 9, b"udp6": 9, b"udplite": 9, b"udplite6": 9, b"raw": 9, b"raw6": 9, b"icmp": 9,
    b"icmp6": 9, b"unix": 6, b"netlink": -1, b"packet": -1,
}  # fmt: skip
"""Files of /proc/net with a line for each socket, and which of its words is the inode (tcp4_seq_show and its like)."""

HEADS: Final = {
    b"arp": b"IP address       HW type     Flags       HW address            Mask     Device\n",
    b"route": b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n",
    b"ipv6_route": b"",
}
"""Tables of the machine's network that have no line for a sandbox."""

_DEVICE_HEAD: Final = (
    b"Inter-|   Receive                                                |  Transmit\n"
    b" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier "
    b"compressed\n"
)


def own_sockets(table: bytes, column: int, inodes: Container[bytes]) -> bytes:
    """Return the head of `table` and the lines whose word at `column` is one of `inodes`."""
    head, *lines = table.splitlines(keepends=True) or [b""]
    return head + b"".join(line for line in lines if _word(line, column) in inodes)


def _word(line: bytes, column: int) -> bytes:
    words = line.split()
    return words[column] if -len(words) <= column < len(words) else b""


def devices_text(names: Iterable[bytes]) -> bytes:
    """Return /proc/net/dev of interfaces that have sent nothing yet."""
    return _DEVICE_HEAD + b"".join(b"%6s:%s\n" % (name, b" 0" * 16) for name in names)


def if_inet6_text() -> bytes:
    """Return /proc/net/if_inet6 of a loopback interface alone."""
    return b"00000000000000000000000000000001 01 80 10 80       lo\n"
