"""From a policy to what serves its network."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from sandlock_notif.content.interfaces import LOOPBACK, way_out
from sandlock_notif.handlers.network.posture import posture_of
from sandlock_notif.handlers.network.table import NetworkTable
from sandlock_notif.resolver import LAUNCH_TTL_S
from sandlock_policy.matching import NetworkRules, names_to_resolve

if TYPE_CHECKING:
    from sandlock_notif.content.interfaces import Interface
    from sandlock_notif.dispatch import HandlerTable
    from sandlock_notif.handlers.network.connecting import Intercept
    from sandlock_notif.resolver import Lookup
    from sandlock_policy.model import Policy

__all__ = ["network_tables", "resolve_names"]

# Addresses for documentation (RFC 5737, RFC 3849): a datagram socket "connected" there sends nothing, and tells whether
# there is a route.
_SOMEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def network_tables(
    policy: Policy,
    resolved: Mapping[str, Iterable[str]] | None = None,
    *,
    intercept: Intercept | None = None,
    lookup: Lookup | None = None,
    socket_files: bool = True,
) -> Sequence[HandlerTable]:
    """Return the tables that serve the network of `policy`.

    Arguments:
        policy: what is allowed.
        resolved: the addresses of its names, from `resolve_names`.
        intercept: gets the other end of each connection to an intercepted port and where it was to go, such as
            `Proxy.adopt`; called in the loop's thread.
        socket_files: Unix sockets may be reached and made by path, as a path means to the kernel what it means inside.
        lookup: how names that rules with wildcards speak of are resolved meanwhile; None: as the host does it.

    Raises:
        PolicyError: an allowed name has no address that may be used.

    """
    rules = NetworkRules.from_policy(
        policy, resolved or {}, names_last_s=LAUNCH_TTL_S if policy.net_refresh else None
    )  # fmt: skip
    table = NetworkTable(
        posture_of(policy), rules, policy.unix_allow, _interfaces(), intercept, lookup, socket_files=socket_files
    )
    return (table,)


def resolve_names(policy: Policy) -> dict[str, tuple[str, ...]]:
    """Return the addresses that each host name in `policy` has now, in the system's order; waits for DNS.

    A name that does not resolve has none; `network_tables` raises, and names the rule.
    """
    return {name: _resolve(name) for name in names_to_resolve(policy)}


def _resolve(name: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def _interfaces() -> tuple[Interface, ...]:
    routes = {family: _has_route(family, address) for family, address in _SOMEWHERE}
    out = way_out(ipv4=routes[socket.AF_INET], ipv6=routes[socket.AF_INET6])
    return (LOOPBACK,) if out is None else (LOOPBACK, out)


def _has_route(family: int, address: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
    except OSError:
        return False
    return True
