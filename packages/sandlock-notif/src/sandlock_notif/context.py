"""What a policy callback can change while the program runs: always within what the policy allowed at the start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_network
from typing import Any

from sandlock_notif.errors import NotifError

__all__ = ["PolicyContext"]


class PolicyContext:
    """The live policy of one sandbox. Its methods may be called from any thread; a bad argument raises.

    The domains that serve the sandbox bring their controls; a control whose domain is not served raises `NotifError`.
    """

    def __init__(self) -> None:
        self._controls: dict[str, Callable[..., None]] = {}

    def bind(self, controls: Mapping[str, Callable[..., None]]) -> None:
        """Take the controls of a domain."""
        self._controls.update(controls)

    def restrict_network(self, ips: Iterable[str]) -> None:
        """Let only these addresses or networks be reached from now on, of those that the policy allows; none for []."""
        self._call("restrict_network", _networks(ips))

    def grant_network(self, ips: Iterable[str]) -> None:
        """Allow these again, within what the policy allowed at the start."""
        self._call("grant_network", _networks(ips))

    def restrict_pid_network(self, pid: int, ips: Iterable[str]) -> None:
        """As `restrict_network`, for one process and what descends from it."""
        self._call("restrict_pid_network", _positive(pid), _networks(ips))

    def restrict_max_memory(self, size: int) -> None:
        """Lower max_memory to `size` bytes."""
        self._call("restrict_max_memory", _positive(size))

    def restrict_max_processes(self, count: int) -> None:
        """Lower max_processes to `count`."""
        self._call("restrict_max_processes", _positive(count))

    def deny_path(self, path: str) -> None:
        """Deny a file or directory and all below it, by identity, for every operation."""
        self._call("deny_path", _absolute(path))

    def allow_path(self, path: str) -> None:
        """Undo `deny_path`, and nothing else."""
        self._call("allow_path", _absolute(path))

    def _call(self, name: str, *arguments: Any) -> None:  # each control has its own
        control = self._controls.get(name)
        if control is None:
            raise NotifError(f"{name}: nothing in this sandbox serves it")
        control(*arguments)


def _networks(ips: Iterable[str]) -> tuple[str, ...]:
    if isinstance(ips, str):
        raise TypeError(f"a list of addresses, not one string: [{ips!r}]")
    return tuple(str(ip_network(ip, strict=False)) for ip in ips)


def _positive(number: int) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number <= 0:
        raise ValueError(f"a positive number, not {number!r}")
    return number


def _absolute(path: str) -> str:
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError(f"an absolute path, not {path!r}")
    return path
