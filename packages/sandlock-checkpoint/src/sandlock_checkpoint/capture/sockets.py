"""Sockets in a stopped process: pairs whose both ends are inside, sockets without a peer, and all others."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from sandlock_checkpoint.open_files import SocketEnd, SocketPair, Target, UnconnectedSocket
from sandlock_checkpoint.terms import Unsupported
from sandlock_sys import pidfd

if TYPE_CHECKING:
    from sandlock_checkpoint.capture.found import Found

__all__ = ["describe_socket", "unix_peer"]

_PEEK_OFFSET = 42  # SO_PEEK_OFF, asm-generic/socket.h, 3.4
_ACCEPTING = 30  # SO_ACCEPTCONN
_DOMAIN = 39  # SO_DOMAIN, 2.6.32
_PROTOCOL = 38  # SO_PROTOCOL
_LARGEST = 1 << 22  # bytes of one message; net.core.wmem_max is far below
_KEPT_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_REUSEADDR),
    (socket.SOL_SOCKET, socket.SO_REUSEPORT),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.SOL_SOCKET, socket.SO_BROADCAST),
    (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
)
_DIAG_REQUEST = struct.Struct("=IHHII BBHIIIII")  # struct nlmsghdr, struct unix_diag_req (linux/unix_diag.h, 3.3)
_DIAG_ANSWER = struct.Struct("=BBBxIII")  # struct unix_diag_msg
_PEER = 2  # UNIX_DIAG_PEER
_SHOW_PEER = 4  # UDIAG_SHOW_PEER


def describe_socket(
    group: list[Found],
    ends: dict[int, list[Found]],
    pairs: list[SocketPair],
    numbers: dict[int, tuple[int, int]],
) -> Target | Unsupported:
    """Return what a socket is.

    Arguments:
        group: the descriptors of its open file.
        ends: every socket's descriptors, by inode.
        pairs: socket pairs found so far; a new one is added.
        numbers: pair and end of each inode found so far; likewise.

    """
    one = group[0]
    inode = one.link.inode or 0
    if inode in numbers:
        return SocketEnd(*numbers[inode])
    with _copy(one) as copy:
        family = copy.getsockopt(socket.SOL_SOCKET, _DOMAIN)
        kind = copy.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        if family == socket.AF_UNIX:
            peer = unix_peer(inode)
            if peer in ends and not copy.getsockname():
                return _pair(one, ends[peer][0], kind, pairs, numbers)
            return Unsupported(one.name, "unix_socket", f"a Unix socket to a process outside, or with a name ({inode})")
        if family not in {socket.AF_INET, socket.AF_INET6}:
            return Unsupported(one.name, "socket", f"a socket of family {family}")
        try:
            copy.getpeername()
        except OSError:
            return _unconnected(one, copy, family, kind)
    name = "tcp_socket" if kind == socket.SOCK_STREAM else "udp_socket"
    return Unsupported(one.name, name, "a connection, whose peer would not know of the restored process")


def _unconnected(one: Found, copy: socket.socket, family: int, kind: int) -> Unsupported:
    listening = copy.getsockopt(socket.SOL_SOCKET, _ACCEPTING)
    return Unsupported(
        one.name,
        "listening_socket" if listening else "unconnected_socket",
        f"a socket of family {family}, type {kind}, at {copy.getsockname()}: can be made anew if that is wanted",
    )


def reopenable(one: Found) -> UnconnectedSocket:
    """Return how an unconnected socket is made anew; for those that were taken on by name."""
    with _copy(one) as copy:
        family = copy.getsockopt(socket.SOL_SOCKET, _DOMAIN)
        kind = copy.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        protocol = copy.getsockopt(socket.SOL_SOCKET, _PROTOCOL)
        listening = copy.getsockopt(socket.SOL_SOCKET, _ACCEPTING)
        options = []
        for level, option in _KEPT_OPTIONS:
            try:
                value = copy.getsockopt(level, option)
            except OSError:  # not an option of this family
                continue
            if value:
                options.append((level, option, value))
        backlog = -1
        if listening:
            # tcpi_sacked of a listening socket is its backlog (tcp_get_info(), net/ipv4/tcp.c)
            info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            backlog = int.from_bytes(info[28:32], "little")
        return UnconnectedSocket(family, kind, protocol, _address(family, copy), backlog, tuple(options))


def _address(family: int, copy: socket.socket) -> bytes:
    host, port, *rest = copy.getsockname()
    if not port:
        return b""
    packed = socket.inet_pton(family, host)
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack("!H", port) + packed + bytes(8)
    flow, scope = rest
    return struct.pack("=H", family) + struct.pack("!HI", port, flow) + packed + struct.pack("=I", scope)


def _pair(
    one: Found, other: Found, kind: int, pairs: list[SocketPair], numbers: dict[int, tuple[int, int]]
) -> Target | Unsupported:
    queues = []
    for end in (one, other):
        with _copy(end) as copy:
            queued = _queued(copy, kind)
            if queued is None:
                return Unsupported(one.name, "unix_socket", "descriptors are on their way through it")
            queues.append(queued)
    number = len(pairs)
    pairs.append(SocketPair(kind, (queues[0], queues[1])))
    numbers[one.link.inode or 0] = (number, 0)
    numbers[other.link.inode or 0] = (number, 1)
    return SocketEnd(number, 0)


def _queued(copy: socket.socket, kind: int) -> tuple[bytes, ...] | None:
    """Return the messages that wait in a socket, and leave them there; None when one carries descriptors."""
    messages: list[bytes] = []
    flags = socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    copy.setsockopt(socket.SOL_SOCKET, _PEEK_OFFSET, 0)
    try:
        while True:
            try:
                data, ancillary, _, _ = copy.recvmsg(_LARGEST, socket.CMSG_SPACE(1024), flags)
            except BlockingIOError:
                break
            carried = [
                text for level, name, text in ancillary if (level, name) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            ]
            for text in carried:
                for (fd,) in struct.iter_unpack("=i", text[: len(text) // 4 * 4]):
                    os.close(fd)
            if carried:
                return None
            if not data:
                break  # the other end is closed
            messages.append(data)
    finally:
        copy.setsockopt(socket.SOL_SOCKET, _PEEK_OFFSET, -1)
    return (b"".join(messages),) if kind == socket.SOCK_STREAM and messages else tuple(messages)


def _copy(one: Found) -> socket.socket:
    """Return another descriptor of the socket, which the caller closes."""
    process = pidfd.open_pidfd(one.pid)
    try:
        return socket.socket(fileno=pidfd.getfd(process, one.fd))
    finally:
        os.close(process)


def unix_peer(inode: int) -> int:
    """Return the inode of the socket that a Unix socket is connected to, 0 for none (sock_diag(7))."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as netlink:  # NETLINK_SOCK_DIAG, 3.3
        everything = 0xFFFFFFFF
        netlink.send(
            _DIAG_REQUEST.pack(
                _DIAG_REQUEST.size, 20, 1, 1, 0,  # SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST
                socket.AF_UNIX, 0, 0, everything, inode, _SHOW_PEER, everything, everything,
            )
        )  # fmt: skip
        answer = netlink.recv(8192)
    kind = int.from_bytes(answer[4:6], "little")
    if kind != 20:  # NLMSG_ERROR
        return 0
    at = 16 + _DIAG_ANSWER.size
    while at + 4 <= len(answer):
        length, name = struct.unpack_from("=HH", answer, at)
        if name == _PEER:
            return int.from_bytes(answer[at + 4 : at + 8], "little")
        at += (length + 3) & ~3 or 4
    return 0
