"""The sandbox's own port space: which real port stands for a port that was taken when the program bound it.

And which ports it has bound at all, for whoever asks from outside.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from errno import EADDRINUSE
from typing import TYPE_CHECKING

from sandlock_notif.dispatch import BoundPort
from sandlock_notif.handlers.network.addresses import AF_INET, Inet

if TYPE_CHECKING:
    from sandlock_notif.handlers.network.inside import Inside

__all__ = ["PortMap"]

_PLAIN_MAX = 1024  # ports under their own number that are remembered; the ones bound longest ago are forgotten
_LOOPBACKS = (Inet(AF_INET, bytes((127, 0, 0, 1)), 0), Inet(10, bytes(15) + b"\1", 0))


@dataclass(frozen=True, slots=True)
class _Entry:
    protocol: str
    virtual: int
    real: int
    cookie: int
    asked: Inet


class PortMap:
    """Ports that are bound inside by one number and outside by another.

    An entry counts as long as the kernel says that the real port is still that socket's.
    """

    def __init__(self, inside: Inside, *, enabled: bool = False) -> None:
        self.enabled = enabled
        self._inside = inside
        self._by_virtual: dict[tuple[str, int], _Entry] = {}
        self._by_real: dict[tuple[str, int], _Entry] = {}
        self._plain: dict[tuple[str, int], _Entry] = {}

    def add(self, protocol: str, asked: Inet, real: int, cookie: int) -> None:
        """Remember that the socket `cookie`, which asked for `asked`, has the real port `real`."""
        entry = _Entry(protocol, asked.port, real, cookie, asked)
        self._by_virtual[protocol, asked.port] = entry
        self._by_real[protocol, real] = entry

    def add_plain(self, protocol: str, name: Inet, cookie: int) -> None:
        """Remember that the socket `cookie` is reached at its own `name`."""
        key = (protocol, name.port)
        self._plain.pop(key, None)
        self._plain[key] = _Entry(protocol, name.port, name.port, cookie, name)
        if len(self._plain) > _PLAIN_MAX:
            del self._plain[next(iter(self._plain))]

    def real_target(self, protocol: str, target: Inet) -> Inet:
        """Return where a destination on loopback really is."""
        if not self._by_virtual or not target.is_loopback():
            return target
        entry = self._by_virtual.get((protocol, target.port))
        return replace(target, port=entry.real) if entry is not None and self._lives(entry) else target

    def asked_port(self, protocol: str, port: int, cookie: int) -> int:
        """Return the port that the socket `cookie`, which has the real `port`, asked for.

        An entry speaks of one socket. The kernel may give its port to another one later, which asked for none.
        """
        entry = self._by_real.get((protocol, port))
        return entry.virtual if entry is not None and entry.cookie == cookie else port

    def virtual_name(self, protocol: str, name: Inet, cookie: int) -> Inet:
        """Return what the program knows the address `name` of its socket `cookie` by: also of one that was accepted."""
        entry = self._by_real.get((protocol, name.port))
        if entry is None or (entry.cookie != cookie and not self._lives(entry)):
            return name
        # A listener on every address was put on loopback; the program asked for every address. What it accepts has one.
        everywhere = len(entry.asked.address) == len(name.address) and not any(entry.asked.address)
        same = everywhere and entry.cookie == cookie
        return replace(name, port=entry.virtual, address=entry.asked.address if same else name.address)

    def virtual_peer(self, protocol: str, name: Inet) -> Inet:
        """Return what the program knows a peer by."""
        entry = self._by_real.get((protocol, name.port)) if name.is_loopback() else None
        return name if entry is None else replace(name, port=entry.virtual)

    def taken(self, protocol: str, port: int) -> bool:
        """Tell whether the program itself has `port` under another number: then it is taken inside as well."""
        entry = self._by_virtual.get((protocol, port))
        return entry is not None and self._lives(entry)

    def bound(self) -> tuple[BoundPort, ...]:
        """Return the ports at which somebody is reached now, and by which real ones."""
        for key, entry in list(self._plain.items()):
            if not self._is_reached(entry):
                del self._plain[key]
        moved = [entry for entry in self._by_virtual.values() if self._is_reached(entry)]
        return tuple(BoundPort(one.protocol, one.virtual, one.real) for one in (*self._plain.values(), *moved))

    def _is_reached(self, entry: _Entry) -> bool:
        """Tell whether the socket of an entry is still who gets what is sent to its name."""
        name = entry.asked.canonical()
        if not any(name.address):
            name = _LOOPBACKS[name.family != AF_INET]
        try:
            return self._inside.owner(entry.protocol, replace(name, port=entry.real)) == entry.cookie
        except OSError:
            return False

    def _lives(self, entry: _Entry) -> bool:
        try:
            owners = [self._inside.owner(entry.protocol, replace(one, port=entry.real)) for one in _LOOPBACKS]
        except OSError:
            return False
        if entry.cookie in owners:
            return True
        if entry.protocol == "tcp" and owners == [None, None] and _is_bound(entry):
            return True  # bound, not listening yet: nobody would be connected, and nobody else has it
        self._drop(entry)
        return False

    def _drop(self, entry: _Entry) -> None:
        """Forget an entry whose socket is gone."""
        for entries, key in ((self._by_virtual, entry.virtual), (self._by_real, entry.real)):
            if entries.get((entry.protocol, key)) is entry:
                del entries[entry.protocol, key]


def _is_bound(entry: _Entry) -> bool:
    """Tell whether somebody has the real port on loopback, where no one but a socket of the sandbox was put."""
    family = socket.AF_INET if len(entry.asked.canonical().address) == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((_LOOPBACKS[family != socket.AF_INET].host, entry.real))
        except OSError as error:
            return error.errno == EADDRINUSE
    return False
