"""Ports in the entry of a run that has a name: noted as they are bound, believed as long as the kernel agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_notif import Event

__all__ = ["Ports", "held_ports", "note_port", "read_ports"]

Ports: TypeAlias = "dict[tuple[str, int], tuple[int, int]]"
"""(protocol, port inside) -> (port outside, inode of the socket)."""

_MOST = 256  # of one entry; the ones bound longest ago are forgotten
_TABLES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}  # below /proc/net, proc(5)


def note_port(ports: Ports, event: Event) -> bool:
    """Add the port that `event` tells of; False where it tells of none."""
    if event.kind != "bound":
        return False
    detail = event.detail
    key = (str(detail["protocol"]), int(str(detail["port"])))
    ports.pop(key, None)
    ports[key] = (int(str(detail["real"])), int(str(detail["inode"])))
    if len(ports) > _MOST:
        del ports[next(iter(ports))]
    return True


def read_ports(rows: Sequence[object]) -> tuple[tuple[str, int, int, int], ...]:
    """Return the rows of an entry as (protocol, inside, outside, inode); ValueError where one is none."""
    found = []
    for row in rows:
        match row:
            case [("tcp" | "udp") as protocol, int(inside), int(outside), int(inode)]:
                found.append((protocol, inside, outside, inode))
            case _:
                raise ValueError("a port has a protocol and three numbers")
    return tuple(found)


def held_ports(rows: Sequence[tuple[str, int, int, int]]) -> tuple[tuple[str, int, int], ...]:
    """Return (protocol, inside, outside) of the rows whose socket still has its port, in this network namespace."""
    if not rows:
        return ()
    held = {(protocol, *one) for protocol in {row[0] for row in rows} for one in _sockets(protocol)}
    return tuple(sorted((row[0], row[1], row[2]) for row in rows if (row[0], row[2], row[3]) in held))


def _sockets(protocol: str) -> set[tuple[int, int]]:
    """Return (port, inode) of every socket of this machine that has a port."""
    found = set()
    for name in _TABLES[protocol]:
        try:
            with open(f"/proc/net/{name}", "rb") as table:
                next(table)
                for line in table:
                    fields = line.split()
                    found.add((int(fields[1].rpartition(b":")[2], 16), int(fields[9])))
        except FileNotFoundError:  # no IPv6 here
            continue
    return found
