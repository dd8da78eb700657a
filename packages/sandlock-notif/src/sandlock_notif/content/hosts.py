"""The /etc/hosts and /etc/resolv.conf of a program: names lead where the rules let it go. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from sandlock_policy.matching import NetworkRules, names_to_resolve

if TYPE_CHECKING:
    from sandlock_policy.model import Policy

__all__ = ["RESOLVER_ADDRESS", "hosts_file", "needs_resolver", "resolver_file"]

_LOCAL: Final = ("127.0.0.1", "::1")

RESOLVER_ADDRESS: Final = "127.53.53.53"
"""Where the sandbox's resolver seems to be. Nothing listens there: a connection to it is handed to the resolver."""


def needs_resolver(policy: Policy) -> bool:
    """Tell whether names have to be resolved while the program runs: a rule has a wildcard, or asks for it."""
    from sandlock_policy.matching.wanted import implied_endpoints  # lazy: with the grammar of HTTP rules
    from sandlock_policy.rules.endpoints import parse_endpoint

    endpoints = [parse_endpoint(text) for text in policy.net_allow]
    endpoints += [endpoint for _, endpoint in implied_endpoints(policy)]
    return policy.net_refresh or any(endpoint.kind == "wildcard" for endpoint in endpoints)


def hosts_file(policy: Policy, resolved: Mapping[str, Iterable[str]]) -> bytes:
    """Return /etc/hosts: each name of the rules with the addresses that it may be reached at.

    Arguments:
        policy: with `net_refresh`, names are left to the resolver, which knows when an address has changed.
        resolved: the addresses of the names at launch.

    Raises:
        PolicyError: an allowed name has no address that may be used.

    """
    # Where the machine calls only one of them localhost, a server will be at that one.
    local = resolved.get("localhost") or _LOCAL
    lines = [f"{one}\tlocalhost\n" for one in local] + ["::1\tip6-localhost ip6-loopback\n"]
    if not policy.net_refresh:
        dropped = set(NetworkRules.from_policy(policy, resolved).dropped)
        for name in names_to_resolve(policy):
            if name != "localhost":
                lines += [f"{one}\t{name}\n" for one in resolved.get(name, ()) if (name, one) not in dropped]
    return "".join(lines).encode("ascii")


def resolver_file(policy: Policy) -> bytes:
    """Return /etc/resolv.conf: the sandbox's resolver, by TCP, or none at all: every name is in /etc/hosts then."""
    if not needs_resolver(policy):
        return b"# every name that may be reached is in /etc/hosts\n"
    return f"nameserver {RESOLVER_ADDRESS}\noptions use-vc timeout:5 attempts:2\n".encode("ascii")
