"""What a policy callback has taken away while the program runs; it can only narrow what the rules allow."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, TypeAlias

from sandlock_notif.errors import VanishedError
from sandlock_policy.matching import canonical_address
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import read_stat

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from sandlock_notif.processes import Processes
    from sandlock_notif.request import Request

    Networks: TypeAlias = tuple[IPv4Network | IPv6Network, ...]

__all__ = ["LiveLimits"]

_DEPTH = 4096  # of a chain of parents


class LiveLimits:
    """Addresses that may be reached now: by all, and by one process with what descends from it.

    The setters may be called in any thread: each replaces one value.

    Attributes:
        processes: the sandbox's; set when the table is attached.
        first: pid of the first process, whose parent is not inside.
        adopting: a process of the sandbox gets orphans of others, so parents do not tell what a process descends from.

    """

    def __init__(self) -> None:
        self._all: Networks | None = None
        self._of: dict[tuple[int, int], Networks] = {}  # (pid, start time)
        self.processes: Processes | None = None
        self.first = 0
        self.adopting = False

    @property
    def active(self) -> bool:
        """Whether anything was taken away."""
        return self._all is not None or bool(self._of)

    def restrict(self, networks: Iterable[str]) -> None:
        """Let only these be reached from now on; none for an empty list."""
        self._all = _parsed(networks)

    def grant(self, networks: Iterable[str]) -> None:
        """Let these be reached again, as far as the rules allow."""
        if self._all is not None:
            self._all = (*self._all, *_parsed(networks))

    def restrict_process(self, pid: int, networks: Iterable[str]) -> None:
        """Let process `pid`, and what descends from it, reach only these.

        Raises:
            ProcessLookupError: there is no such process in the sandbox.

        """
        processes = self.processes
        if processes is None or not processes.contains(pid):
            raise ProcessLookupError(f"process {pid} is not in the sandbox")
        self._of = {**self._of, processes.register(pid).key: _parsed(networks)}

    def allows(self, request: Request, address: bytes) -> bool:
        """Tell whether the caller may still reach `address`, of 4 or 16 bytes."""
        canonical = ip_address(canonical_address(address))
        limits = [] if self._all is None else [self._all]
        if self._of:
            limits += self._limits_of(request)
        return all(any(canonical in network for network in networks) for networks in limits)

    def _limits_of(self, request: Request) -> list[Networks]:
        """Return the limits of the caller and of those it descends from.

        A process whose parents are gone, or may be others by now, might descend from any that is no younger: it gets
        the limits of all these.
        """
        assert self.processes is not None  # noqa: S101  # attached before the first request
        process = self.processes.of(request)
        found: list[Networks] = []
        pid, start = process.key
        try:
            for _ in range(0 if self.adopting else _DEPTH):
                if (pid, start) in self._of:
                    found.append(self._of[pid, start])
                if pid == self.first:
                    return found
                pid = read_stat(pid).ppid
                if pid <= 1 or not self.processes.contains(pid):
                    break
                start = read_stat(pid).starttime
        except SyscallError as error:
            raise VanishedError from error
        return [networks for (_, begun), networks in self._of.items() if begun <= process.start]


def _parsed(networks: Iterable[str]) -> Networks:
    return tuple(ip_network(one) for one in networks)
