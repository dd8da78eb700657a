"""Rules about addresses as tables: protocol and address family, then address, then port; two bisections a lookup."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final

from sandlock_policy.matching.addresses import PRIVATE_NETWORKS, canonical_value
from sandlock_policy.matching.intervals import Intervals
from sandlock_policy.rules.endpoints import Endpoint
from sandlock_policy.rules.ports import ALL_PORTS

__all__ = ["Table"]

# (version, first, last) of addresses, both ends inside.
Span = tuple[int, int, int]
# (first, last, label) of ports.
Ports = tuple[tuple[int, int, str], ...]
_EVERYTHING: Final = ("0.0.0.0/0", "::/0")


class Table:
    """Finds the rule that covers an address and a port: of several, the one with the longest prefix.

    10,000 networks cost a lookup what 10 do but for the depth of a bisection. Building costs O(n log n).
    """

    def __init__(self, rules: Iterable[tuple[str, Endpoint]]) -> None:
        """Take (label, endpoint); rules that name hosts are left out, they have no addresses of their own."""
        collected: dict[tuple[str, int], dict[tuple[int, int], list[tuple[int, int, str]]]] = {}
        for label, endpoint in rules:
            ports = [(0 if span == ALL_PORTS else span[0], span[1], label) for span in endpoint.ports]
            for version, first, last in _spans(endpoint):
                for protocol in endpoint.protocols:
                    collected.setdefault((protocol, version), {}).setdefault((first, last), []).extend(ports)
        self._by_kind = {kind: _nest(spans) for kind, spans in collected.items()}

    def find(self, protocol: str, version: int, value: int, port: int) -> str | None:
        """Return the label of the rule that covers a canonical address and a port (0 for ICMP), or None."""
        addresses = self._by_kind.get((protocol, version))
        ports = addresses.find(value) if addresses is not None else None
        return ports.find(port) if ports is not None else None

    def covers(self, version: int, value: int) -> bool:
        """Tell whether any rule speaks of a canonical address, whatever the protocol and the port."""
        kinds = (self._by_kind.get((protocol, version)) for protocol in ("tcp", "udp", "icmp"))
        return any(addresses is not None and addresses.find(value) is not None for addresses in kinds)


def _spans(endpoint: Endpoint) -> Iterator[Span]:
    if endpoint.kind in ("host", "wildcard"):
        return
    texts: tuple[str, ...] = (endpoint.target,)
    if endpoint.kind == "any":
        texts = _EVERYTHING
    elif endpoint.kind == "private":
        texts = PRIVATE_NETWORKS
    for text in texts:
        network = ipaddress.ip_network(text)
        first, last = int(network.network_address), int(network.broadcast_address)
        if first == last:
            version, first = canonical_value(network.version, first)
            yield version, first, first
        else:
            yield network.version, first, last


def _nest(spans: dict[tuple[int, int], list[tuple[int, int, str]]]) -> Intervals[Intervals[str]]:
    """Give each network the ports of its own rules and, behind them, those of the networks around it."""
    built: list[tuple[int, int, Intervals[str]]] = []
    around: list[tuple[int, Ports]] = []  # (last address, ports) of the networks that hold the current one
    for first, last in sorted(spans, key=lambda span: (span[0], -span[1])):
        while around and around[-1][0] < first:
            around.pop()
        ports = tuple(spans[first, last]) + (around[-1][1] if around else ())
        around.append((last, ports))
        built.append((first, last, Intervals(ports)))
    # Networks nest or are apart, so the shortest that covers an address is the one with the longest prefix.
    built.sort(key=lambda entry: entry[1] - entry[0])
    return Intervals(built)
