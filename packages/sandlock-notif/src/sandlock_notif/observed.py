"""What a program was seen to use: files by their real path, peers, ports, questions to name servers."""

from __future__ import annotations

import os

__all__ = ["MOST", "Observed"]

MOST = 100_000
"""Entries of each kind that are kept: the program decides how many there are. `lost` counts the others."""


class Observed:
    """A record that grows while the program runs.

    Attributes:
        reads: files that were opened for reading, and folders that were listed; only what this user may read.
        writes: files that were opened for writing, or whose attributes were changed.
        made: folders in which a name was made or taken away, each with such a name.
        runs: programs that were executed, with their links resolved.
        tcp, udp, icmp: (host, port) of peers; of UDP those that were sent to.
        udp_connected: (host, port) of UDP peers that a socket was only connected to: resolvers do that to find routes.
        binds: ports that were bound; 0 stands for any.
        inside: TCP ports that the program itself listened on.
        sockets: paths of Unix sockets.
        asked: name server -> names that it was asked for; "" where a message was no question.
        lost: what was not kept.

    """

    def __init__(self) -> None:
        self.reads: set[str] = set()
        self.writes: set[str] = set()
        self.made: dict[str, set[str]] = {}
        self.runs: set[str] = set()
        self.tcp: set[tuple[str, int]] = set()
        self.udp: set[tuple[str, int]] = set()
        self.icmp: set[tuple[str, int]] = set()
        self.udp_connected: set[tuple[str, int]] = set()
        self.binds: set[int] = set()
        self.inside: set[int] = set()
        self.sockets: set[str] = set()
        self.asked: dict[tuple[str, int], set[str]] = {}
        self.lost = 0

    def read(self, path: str) -> None:
        """Note that `path` is read, if it is there and can be."""
        real = os.path.realpath(path)
        if real not in self.reads and os.access(real, os.R_OK):
            self._add(self.reads, real)

    def write(self, path: str) -> None:
        """Note that `path` is written, if it is there."""
        real = os.path.realpath(path)
        if real not in self.writes and os.path.exists(real):
            self._add(self.writes, real)

    def make(self, path: str) -> None:
        """Note that the name `path` is made or taken away, if the folder that it is in is there."""
        folder = os.path.realpath(os.path.dirname(path))
        if not os.path.isdir(folder):
            return
        names = self.made.setdefault(folder, set())
        if len(names) < MOST and len(self.made) <= MOST:
            names.add(os.path.basename(path.rstrip("/")))
        else:
            self.lost += 1

    def run(self, path: str) -> None:
        """Note that `path` is executed, if it can be."""
        real = os.path.realpath(path)
        if real not in self.runs and os.path.isfile(real) and os.access(real, os.X_OK):
            self._add(self.runs, real)

    def connect(self, protocol: str, host: str, port: int) -> None:
        """Note a peer that a socket is connected to."""
        place = {"tcp": self.tcp, "icmp": self.icmp}.get(protocol, self.udp_connected)
        self._add(place, (host, port))

    def send(self, protocol: str, host: str, port: int, asked: str) -> None:
        """Note a peer that a datagram goes to, and the name that it asks for, or ""."""
        self._add(self.icmp if protocol == "icmp" else self.udp, (host, port))
        if protocol == "udp":
            self.asked.setdefault((host, port), set()).add(asked)

    def bind(self, port: int) -> None:
        """Note that a port is bound."""
        self._add(self.binds, port)

    def listen(self, port: int) -> None:
        """Note that `port` is listened on; 0 where the kernel is yet to choose it."""
        self._add(self.inside, port)
        if not port:
            self._add(self.binds, 0)

    def call_on(self, path: str) -> None:
        """Note that the Unix socket `path` is connected or sent to, if it is there."""
        real = os.path.realpath(path)
        if os.path.exists(real):
            self._add(self.sockets, real)

    def _add(self, place: set, item: object) -> None:  # type: ignore[type-arg]  # of either kind
        if len(place) < MOST:
            place.add(item)
        else:
            self.lost += 1
