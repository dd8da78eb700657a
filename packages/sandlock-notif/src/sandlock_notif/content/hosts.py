"""The hosts file that a program is given: loopback names, its own, and those of the policy (hosts(5))."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["hosts_file"]

_LOOPBACK = ("127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback")


def hosts_file(names: Mapping[str, Sequence[str]], hostname: str | None = None) -> bytes:
    """Return the file's content: every name with each of its addresses, in the order in which they were resolved.

    Arguments:
        names: addresses by name; what the program is told is what it may connect to.
        hostname: the program's own name, which is at home on the loopback.

    """
    lines = [*_LOOPBACK]
    if hostname is not None:
        lines.append(f"127.0.1.1 {hostname}")
    lines += [f"{address} {name}" for name, addresses in names.items() if name != "localhost" for address in addresses]
    return "".join(f"{line}\n" for line in lines).encode()
