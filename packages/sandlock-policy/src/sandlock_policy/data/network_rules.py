"""Which sockets a sandboxed program may make, what it may do to them, and why.

Numbers carry the header they come from; they are the asm-generic ones, which x86_64, aarch64 and riscv64 share.
"""

from __future__ import annotations

from sandlock_policy.seccomp.opcodes import RET_ALLOW
from sandlock_policy.seccomp.rules import DENY, Condition, Group, Rule, between, errno_action, has_bits, one_of

__all__ = [
    "INET_REFUSED",
    "INET_TCP_ONLY",
    "LISTEN_REFUSED",
    "NETWORK_GROUPS",
    "UNIX_ALLOWED",
    "UNIX_REFUSED",
]

# asm-generic/errno-base.h and errno.h
_EACCES = errno_action(13)
_EOPNOTSUPP = errno_action(95)
_EAFNOSUPPORT = errno_action(97)

_IOCTL = "ioctl"
_SETSOCKOPT = "setsockopt"

# The level of setsockopt(2). Written once, so that the compiler finds rules of one level by identity.
_SOL_IP = one_of(1, 0)  # linux/in.h
_SOL_SOCKET = one_of(1, 1)  # asm-generic/socket.h
_SOL_TCP = one_of(1, 6)  # linux/in.h
_SOL_IPV6 = one_of(1, 41)  # linux/in.h


def _option(level: Condition, name: int, reason: str) -> Rule:
    return Rule(_SETSOCKOPT, (level, one_of(2, name)), DENY, reason)


NETWORK_GROUPS: dict[str, Group] = {
    "interfaces": Group(
        "names, addresses and settings of the host's network interfaces",
        {},
        (
            # linux/sockios.h; what lies below 0x890b (SIOCATMARK, owners, time stamps) is about the socket itself.
            Rule(_IOCTL, (between(1, 0x890B, 0x894A),), DENY, "SIOCADDRT to SIOCWANDEV"),
            Rule(_IOCTL, (between(1, 0x894C, 0x89FF),), DENY, "all above but SIOCOUTQNSD"),
        ),
    ),
    "fast_open": Group(
        "connects while sending, past Landlock's connect right (LL-09); answered as by a kernel with it switched off",
        {},
        (
            # MSG_FASTOPEN, linux/socket.h, 3.5
            Rule("sendto", (has_bits(3, 0x20000000),), _EOPNOTSUPP, "MSG_FASTOPEN"),
            Rule("sendmsg", (has_bits(2, 0x20000000),), _EOPNOTSUPP, "MSG_FASTOPEN"),
            Rule("sendmmsg", (has_bits(3, 0x20000000),), _EOPNOTSUPP, "MSG_FASTOPEN"),
        ),
    ),
    "socket_options": Group(
        "options that choose another way out, forge addresses or run code in the kernel (NET-10)",
        {},
        (
            # linux/tcp.h
            _option(_SOL_TCP, 19, "TCP_REPAIR: forges a connection"),
            _option(_SOL_TCP, 23, "TCP_FASTOPEN: accepts data before the handshake"),
            _option(_SOL_TCP, 30, "TCP_FASTOPEN_CONNECT: connects at the first write, past Landlock"),
            _option(_SOL_TCP, 31, "TCP_ULP: loads another protocol onto the socket"),
            # asm-generic/socket.h
            _option(_SOL_SOCKET, 25, "SO_BINDTODEVICE: another interface"),
            _option(_SOL_SOCKET, 26, "SO_ATTACH_FILTER: code in the kernel"),
            _option(_SOL_SOCKET, 32, "SO_SNDBUFFORCE: past the host's limit"),
            _option(_SOL_SOCKET, 33, "SO_RCVBUFFORCE: past the host's limit"),
            _option(_SOL_SOCKET, 36, "SO_MARK: another route"),
            _option(_SOL_SOCKET, 50, "SO_ATTACH_BPF: code in the kernel"),
            _option(_SOL_SOCKET, 51, "SO_ATTACH_REUSEPORT_CBPF: code in the kernel"),
            _option(_SOL_SOCKET, 52, "SO_ATTACH_REUSEPORT_EBPF: code in the kernel"),
            _option(_SOL_SOCKET, 62, "SO_BINDTOIFINDEX: another interface"),
            # linux/in.h
            _option(_SOL_IP, 4, "IP_OPTIONS: source routes"),
            _option(_SOL_IP, 15, "IP_FREEBIND: foreign addresses"),
            _option(_SOL_IP, 16, "IP_IPSEC_POLICY"),
            _option(_SOL_IP, 17, "IP_XFRM_POLICY"),
            _option(_SOL_IP, 19, "IP_TRANSPARENT: foreign addresses"),
            Rule(
                _SETSOCKOPT,
                (_SOL_IP, between(2, 64, 0xFFFFFFFF)),
                DENY,
                "the tables of netfilter and ipvs",  # linux/netfilter_ipv4/ip_tables.h: from 64 on
            ),
            # linux/in6.h, and net/ipv6.h for the numbers of RFC 2292
            _option(_SOL_IPV6, 3, "IPV6_2292HOPOPTS"),
            _option(_SOL_IPV6, 4, "IPV6_2292DSTOPTS"),
            _option(_SOL_IPV6, 5, "IPV6_2292RTHDR: source routes"),
            _option(_SOL_IPV6, 6, "IPV6_2292PKTOPTIONS: source routes"),
            _option(_SOL_IPV6, 22, "IPV6_ROUTER_ALERT"),
            _option(_SOL_IPV6, 34, "IPV6_IPSEC_POLICY"),
            _option(_SOL_IPV6, 35, "IPV6_XFRM_POLICY"),
            _option(_SOL_IPV6, 54, "IPV6_HOPOPTS"),
            _option(_SOL_IPV6, 55, "IPV6_RTHDRDSTOPTS"),
            _option(_SOL_IPV6, 57, "IPV6_RTHDR: source routes"),
            _option(_SOL_IPV6, 59, "IPV6_DSTOPTS"),
            _option(_SOL_IPV6, 64, "IP6T_SO_SET_REPLACE"),
            _option(_SOL_IPV6, 65, "IP6T_SO_SET_ADD_COUNTERS"),
            _option(_SOL_IPV6, 75, "IPV6_TRANSPARENT: foreign addresses"),
            _option(_SOL_IPV6, 78, "IPV6_FREEBIND: foreign addresses"),
        ),
    ),
}

_UNIX = one_of(0, 1)  # AF_UNIX
_INET = one_of(0, 2, 10)  # AF_INET, AF_INET6
_SOCK_TYPE_MASK = 0xF  # linux/net.h: above it are SOCK_CLOEXEC and SOCK_NONBLOCK
_STREAM = one_of(1, 1, mask=_SOCK_TYPE_MASK)
_STREAM_OR_SEQPACKET = one_of(1, 1, 5, mask=_SOCK_TYPE_MASK)
_TCP = one_of(2, 0, 6)  # not 262, IPPROTO_MPTCP, nor 132, SCTP: Landlock's ports do not cover them (LL-10)
_FAMILIES = "families but UNIX, INET and INET6: netlink, vsock, alg and the rest (LL-20)"

# Which sockets may be made; tried in order, one of the UNIX pair and one of the INET pair, UNIX first.
UNIX_ALLOWED: tuple[Rule, ...] = (
    Rule("socket", (_UNIX,), RET_ALLOW, "the policy gives Unix sockets"),
    Rule("socketpair", (_UNIX,), RET_ALLOW, "the policy gives Unix sockets"),
    Rule("socketpair", (), _EAFNOSUPPORT, _FAMILIES),
)
UNIX_REFUSED: tuple[Rule, ...] = (
    Rule("socket", (_UNIX,), _EACCES, "could connect to a socket file, which Landlock does not cover (LL-13)"),
    Rule("socketpair", (_UNIX, _STREAM_OR_SEQPACKET), RET_ALLOW, "both ends stay inside, and cannot be connected anew"),
    Rule("socketpair", (_UNIX,), _EACCES, "a datagram socket may send to any socket file (LL-14)"),
    Rule("socketpair", (), _EAFNOSUPPORT, _FAMILIES),
)
INET_TCP_ONLY: tuple[Rule, ...] = (
    Rule("socket", (_INET, _STREAM, _TCP), RET_ALLOW, "TCP; Landlock decides the ports"),
    Rule("socket", (_INET,), _EACCES, "UDP, ICMP, raw, MPTCP, SCTP: nothing decides where they go (LL-10, LL-12)"),
    Rule("socket", (), _EAFNOSUPPORT, _FAMILIES),
)
INET_REFUSED: tuple[Rule, ...] = (
    Rule("socket", (_INET,), _EACCES, "the policy gives no network (NET-01)"),
    Rule("socket", (), _EAFNOSUPPORT, _FAMILIES),
)
LISTEN_REFUSED: tuple[Rule, ...] = (
    Rule("listen", (), _EACCES, "without a bind before it, it opens a random port that Landlock does not see"),
)
