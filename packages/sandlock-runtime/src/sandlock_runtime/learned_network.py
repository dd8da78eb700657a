"""From the peers that a program talked to to network rules. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sandlock_notif.observed import Observed

__all__ = ["NetworkUse", "network_rules"]

_DNS_PORT = 53


@dataclass(slots=True)
class NetworkUse:
    """Rules, as `Policy` takes them, and what to know about them."""

    allow: tuple[str, ...] = ()
    bind: tuple[int, ...] = ()
    notes: list[str] = field(default_factory=list)


def network_rules(seen: Observed, names: Mapping[str, Iterable[str]]) -> NetworkUse:
    """Return rules for the peers in `seen`, by name where one of `names` (name -> addresses) has the address.

    A name server is left out where every name that it was asked for became a rule: those are resolved at the start.
    """
    named = {_plain(address): name for name, addresses in sorted(names.items()) for address in addresses}
    ports: dict[tuple[str, str], set[int]] = {}
    used: set[str] = set()
    numeric: set[str] = set()

    def add(protocol: str, host: str, port: int) -> None:
        address = _plain(host)
        own = ipaddress.ip_address(address).is_loopback  # whose number says it all
        if own and protocol == "tcp" and port in seen.inside:
            return  # what the sandbox itself listens on needs no rule
        name = "" if own else named.get(address, "")
        if name:
            used.add(name)
        elif not own:
            numeric.add(address)
        ports.setdefault((protocol, name or address), set()).add(port)

    for host, port in seen.tcp:
        add("tcp", host, port)
    for host, port in seen.icmp:
        add("icmp", host, port)
    tcp_ports = {port for _, port in seen.tcp}
    # A resolver connects UDP sockets to what it found, and sends nothing, to learn which way it would go.
    silent = {one for one in seen.udp_connected if one[1] not in (0, _DNS_PORT) and one[1] not in tcp_ports}
    servers = [one for one in seen.udp if one[1] == _DNS_PORT]
    for host, port in (seen.udp | silent) - set(servers):
        add("udp", host, port)
    notes = []
    for host, port in sorted(servers):
        if not _answered(seen.asked.get((host, port), {""}), used):
            add("udp", host, port)
            numeric.discard(_plain(host))
            notes.append(f"it asks the name server {host} for names that it does not connect to, so that stays allowed")
    notes += [f"{address} was reached by its number; a name that stands for it may have another the next time"
              for address in sorted(numeric)]  # fmt: skip
    allow = sorted(_rule(protocol, target, found) for (protocol, target), found in ports.items())
    return NetworkUse(tuple(allow), tuple(sorted(seen.binds)), notes)


def _answered(asked: Iterable[str], used: set[str]) -> bool:
    """Tell whether every name is one of `used`, or one of them with a search domain behind."""
    return all(name and any(name == one or name.startswith(f"{one}.") for one in used) for name in asked)


def _plain(host: str) -> str:
    """Return an address without scope, an IPv4 one in IPv6 as itself, and "any" as loopback, as the kernel takes it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "::1"
    return str(address)


def _rule(protocol: str, target: str, ports: set[int]) -> str:
    host = f"[{target}]" if ":" in target else target
    if protocol == "icmp":
        return f"icmp://{host}"
    return f"{protocol}://{host}:{','.join(str(port) for port in sorted(ports))}"
