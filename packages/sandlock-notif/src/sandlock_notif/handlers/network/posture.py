"""What a policy makes possible on the network, and which calls must be asked about because of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandlock_notif.content.hosts import needs_resolver
from sandlock_policy.data.supervised_network import (
    FAMILIES_REFUSED,
    ICMP_ALLOWED,
    INET_REST_REFUSED,
    NETLINK_ROUTE,
    SHARED_PORTS_REFUSED,
    TCP_ALLOWED,
    UDP_ALLOWED,
    UNIX_DATAGRAMS_ALLOWED,
    UNIX_DATAGRAMS_REFUSED,
    UNIX_STREAMS_ALLOWED,
    ZEROCOPY_REFUSED,
)
from sandlock_policy.matching import intercepted_ports
from sandlock_policy.rules.endpoints import parse_endpoint
from sandlock_policy.rules.ports import ALL_PORTS
from sandlock_policy.seccomp.opcodes import RET_USER_NOTIF
from sandlock_policy.seccomp.rules import Rule

if TYPE_CHECKING:
    from sandlock_policy.model import Policy

__all__ = ["Posture", "network_filter_rules", "posture_of"]


@dataclass(frozen=True, slots=True)
class Posture:
    """What sockets there may be.

    Attributes:
        tcp, udp, icmp: sockets of this protocol may be made. Where there are others, there are TCP sockets.
        probes: UDP sockets may be made only to be told from which address another one is reached, as ping is.
        sends: datagrams need a verdict each, so sendto with a name, sendmsg and sendmmsg are served.
        intercepts: TCP ports that the HTTP proxy gets.
        remaps: the sandbox has a port space of its own.
        listens: some port may be bound.
        resolves: names are resolved while the program runs, by a resolver of the sandbox's own.
        fixed: no rule changes its meaning while the program runs, as names that are resolved again do.

    """

    tcp: bool
    udp: bool
    icmp: bool
    sends: bool
    intercepts: frozenset[int]
    remaps: bool
    listens: bool
    fixed: bool = True
    resolves: bool = False
    probes: bool = False

    @property
    def inet(self) -> bool:
        """Whether IP sockets may be made at all."""
        return self.tcp or self.udp or self.icmp


def posture_of(policy: Policy) -> Posture:
    """Return what `policy` makes possible."""
    rules = [parse_endpoint(text) for text in policy.net_allow]
    denials = [parse_endpoint(text) for text in policy.net_deny]
    anything = bool(policy.net_deny) and not policy.net_allow
    binds = bool(policy.net_allow_bind or policy.net_deny_bind)
    protocols = {protocol for rule in rules for protocol in rule.protocols}
    intercepts = frozenset(intercepted_ports(policy))
    udp = anything or binds or "udp" in protocols
    icmp = "icmp" in protocols
    free = not policy.net_deny and any(
        rule.kind == "any" and rule.ports == (ALL_PORTS,) and "udp" in rule.protocols for rule in rules
    )
    return Posture(
        # Programs take a TCP socket for the proof that there is IPv4 at all (dig does); where it leads is asked later.
        tcp=anything or binds or bool(protocols) or bool(intercepts),
        udp=udp,
        icmp=icmp,
        sends=(udp and not free) or icmp or bool(policy.unix_allow),
        intercepts=intercepts,
        remaps=policy.port_remap,
        listens=binds,
        resolves=needs_resolver(policy),
        probes=icmp and not udp,
        fixed=not policy.net_refresh and all(rule.kind != "wildcard" for rule in (*rules, *denials)),
    )


def network_filter_rules(policy: Policy) -> tuple[Rule, ...]:
    """Return the rules of socket(2), socketpair(2) and setsockopt(2) for a policy whose network is served.

    They take the place of UNIX_REFUSED or UNIX_ALLOWED, INET_REFUSED or INET_TCP_ONLY, and LISTEN_REFUSED
    (`sandlock_policy.data.network_rules`), and decide every family, type and protocol. The traps are apart.
    """
    posture = posture_of(policy)
    rules: list[Rule] = [*UNIX_STREAMS_ALLOWED]
    rules += UNIX_DATAGRAMS_ALLOWED if posture.sends else UNIX_DATAGRAMS_REFUSED
    rules += TCP_ALLOWED if posture.tcp else ()
    rules += UDP_ALLOWED if posture.udp or posture.probes else ()
    rules += ICMP_ALLOWED if posture.icmp else ()
    rules += INET_REST_REFUSED
    if posture.inet:
        rules.append(Rule("socket", NETLINK_ROUTE, RET_USER_NOTIF, "a stand-in that knows two interfaces (NET-12)"))
    rules += FAMILIES_REFUSED
    rules += ZEROCOPY_REFUSED if posture.sends else ()
    rules += SHARED_PORTS_REFUSED if posture.listens else ()
    return tuple(rules)
