"""Which sockets may exist where a supervisor decides whom they reach. Data, as `network_rules` is for the kernel alone.

The supervisor serves connect, bind and, where datagrams exist, sendto, sendmsg and sendmmsg. What it does not serve is
refused here: no family, type or protocol that has no verdict can be made. For each system call the rules are tried in
order, so those of the families come first and `FAMILIES_REFUSED` last.
"""

from __future__ import annotations

from sandlock_policy.seccomp.opcodes import RET_ALLOW
from sandlock_policy.seccomp.rules import Rule, errno_action, one_of

__all__ = [
    "FAMILIES_REFUSED",
    "ICMP_ALLOWED",
    "INET_REST_REFUSED",
    "NETLINK_ROUTE",
    "SHARED_PORTS_REFUSED",
    "TCP_ALLOWED",
    "UDP_ALLOWED",
    "UNIX_DATAGRAMS_ALLOWED",
    "UNIX_DATAGRAMS_REFUSED",
    "UNIX_STREAMS_ALLOWED",
    "ZEROCOPY_REFUSED",
]

# asm-generic/errno-base.h and errno.h
_EACCES = errno_action(13)
_ENOPROTOOPT = errno_action(92)
_EOPNOTSUPP = errno_action(95)
_EAFNOSUPPORT = errno_action(97)

_TYPE = 0xF  # linux/net.h: above it are SOCK_CLOEXEC and SOCK_NONBLOCK
_UNIX = one_of(0, 1)
_INET = one_of(0, 2, 10)
_STREAM = one_of(1, 1, mask=_TYPE)
_DATAGRAM = one_of(1, 2, mask=_TYPE)
_UNIX_STREAM = one_of(1, 1, 5, mask=_TYPE)
_UNIX_DATAGRAM = one_of(1, 2, 3, mask=_TYPE)  # SOCK_RAW is SOCK_DGRAM for AF_UNIX (unix_create)

TCP_ALLOWED: tuple[Rule, ...] = (
    # Not 262, IPPROTO_MPTCP, 132, SCTP, or 256, SMC: nobody decides whom those reach (LL-10).
    Rule("socket", (_INET, _STREAM, one_of(2, 0, 6)), RET_ALLOW, "TCP; the supervisor connects and binds"),
)
UDP_ALLOWED: tuple[Rule, ...] = (
    # Not 136, UDP-Lite (LL-12).
    Rule("socket", (_INET, _DATAGRAM, one_of(2, 0, 17)), RET_ALLOW, "UDP; the supervisor connects, binds and sends"),
)
ICMP_ALLOWED: tuple[Rule, ...] = (
    Rule("socket", (one_of(0, 2), _DATAGRAM, one_of(2, 1)), RET_ALLOW, "ping; the supervisor sends (NET-11)"),
    Rule("socket", (one_of(0, 10), _DATAGRAM, one_of(2, 58)), RET_ALLOW, "ping; the supervisor sends (NET-11)"),
)
INET_REST_REFUSED: tuple[Rule, ...] = (
    Rule("socket", (_INET,), _EACCES, "no rule names the protocol, or it is raw, MPTCP, SCTP, UDP-Lite (LL-10, LL-12)"),
)
UNIX_STREAMS_ALLOWED: tuple[Rule, ...] = (
    Rule("socket", (_UNIX, _UNIX_STREAM), RET_ALLOW, "the supervisor connects and binds (LL-13)"),
    Rule("socketpair", (_UNIX, _UNIX_STREAM), RET_ALLOW, "both ends stay inside, and cannot be connected anew"),
)
UNIX_DATAGRAMS_ALLOWED: tuple[Rule, ...] = (
    Rule("socket", (_UNIX, _UNIX_DATAGRAM), RET_ALLOW, "the supervisor connects, binds and sends (LL-14)"),
    Rule("socketpair", (_UNIX, _UNIX_DATAGRAM), RET_ALLOW, "the supervisor connects, binds and sends (LL-14)"),
)
UNIX_DATAGRAMS_REFUSED: tuple[Rule, ...] = (
    Rule(
        "socket", (_UNIX,), _EACCES, "a datagram socket may send to any socket file, and sends are not served (LL-14)"
    ),
    Rule("socketpair", (_UNIX,), _EACCES, "as socket(2) of this kind (LL-14)"),
)
NETLINK_ROUTE = (one_of(0, 16), one_of(1, 2, 3, mask=_TYPE), one_of(2, 0))
"""Conditions of socket(2) for what lists interfaces and addresses: the supervisor hands out a stand-in (NET-12)."""
FAMILIES_REFUSED: tuple[Rule, ...] = (
    Rule("socket", (), _EAFNOSUPPORT, "every other family: netlink but route, packet, vsock, alg and the rest (LL-20)"),
    Rule("socketpair", (), _EAFNOSUPPORT, "every other family (LL-20)"),
)
ZEROCOPY_REFUSED: tuple[Rule, ...] = (
    # asm-generic/socket.h, 4.14. The pages sent would be the supervisor's, which are gone when the kernel reads them.
    Rule("setsockopt", (one_of(1, 1), one_of(2, 60)), _EOPNOTSUPP, "SO_ZEROCOPY, where sends are made on behalf"),
)
SHARED_PORTS_REFUSED: tuple[Rule, ...] = (
    # asm-generic/socket.h, 3.9. Set between the look at who has a port and the bind, it would share the host's.
    Rule("setsockopt", (one_of(1, 1), one_of(2, 15)), _ENOPROTOOPT, "SO_REUSEPORT, where ports are bound (NET-08)"),
)
