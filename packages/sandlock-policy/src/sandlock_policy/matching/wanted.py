"""What a policy's network rules ask for before the program starts: names to resolve, ports to intercept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sandlock_policy.rules.endpoints import Endpoint, Kind, parse_endpoint
from sandlock_policy.rules.http import parse_rule

if TYPE_CHECKING:
    from sandlock_policy.model import Policy

__all__ = ["has_names", "implied_endpoints", "intercepted_ports", "names_to_resolve"]


def intercepted_ports(policy: Policy) -> tuple[int, ...]:
    """Return the TCP ports whose connections belong to the HTTP proxy; none without a rule about HTTP."""
    if not (policy.http_allow or policy.http_deny or policy.http_auth):
        return ()
    if policy.http_ports:
        return tuple(policy.http_ports)
    has_ca = bool(policy.http_ca or policy.http_inject_ca or policy.http_ca_out)
    return (80, 443) if has_ca else (80,)


def implied_endpoints(policy: Policy) -> Iterator[tuple[str, Endpoint]]:
    """Yield (label, endpoint) for what `http_allow` has to reach, on intercepted ports only.

    A rule about requests would be of no use if its host could not be reached; on a port that is not intercepted
    nobody would look at the requests, so there it allows nothing.
    """
    ports = intercepted_ports(policy)
    for index, text in enumerate(policy.http_allow):
        rule = parse_rule(text)
        wanted = [port for port in ports if rule.port in (None, port)]
        if wanted:
            kind, target = _split_host(rule.host)
            ranges = tuple((port, port) for port in sorted(wanted))
            yield f"http.allow[{index}] {text}", Endpoint(("tcp",), kind, target, ranges)


def names_to_resolve(policy: Policy) -> tuple[str, ...]:
    """Return the host names that rules of `policy` name, each once, in their order; wildcards are not among them."""
    endpoints = [parse_endpoint(text) for text in (*policy.net_allow, *policy.net_deny)]
    endpoints += [endpoint for _, endpoint in implied_endpoints(policy)]
    return tuple(dict.fromkeys(endpoint.target for endpoint in endpoints if endpoint.kind == "host"))


def has_names(policy: Policy) -> bool:
    """Tell whether a rule allows a host by its name, wildcards included."""
    endpoints = [parse_endpoint(text) for text in policy.net_allow]
    endpoints += [endpoint for _, endpoint in implied_endpoints(policy)]
    return any(endpoint.kind in ("host", "wildcard") for endpoint in endpoints)


def _split_host(host: str) -> tuple[Kind, str]:
    if host == "*":
        return "any", ""
    if host.startswith("*."):
        return "wildcard", host[2:]
    if ":" in host or host.strip("0123456789.") == "":
        return "address", host
    return "host", host
