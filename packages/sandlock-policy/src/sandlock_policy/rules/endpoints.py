"""Network endpoints: `[tcp://|udp://|icmp://]TARGET[:PORTS]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sandlock_policy.errors import RuleError
from sandlock_policy.rules.hosts import parse_address, parse_host, parse_network
from sandlock_policy.rules.ports import ALL_PORTS, format_ranges, parse_ranges

__all__ = ["Endpoint", "Kind", "Protocol", "check_endpoint", "parse_endpoint"]

Protocol = Literal["tcp", "udp", "icmp"]
Kind = Literal["any", "host", "wildcard", "address", "network", "private"]

_SCHEMES: dict[str, tuple[Protocol, ...]] = {"tcp": ("tcp",), "udp": ("udp",), "icmp": ("icmp",)}
_BOTH: tuple[Protocol, ...] = ("tcp", "udp")
_REMEDY = "write [tcp://|udp://|icmp://]TARGET[:PORTS], such as tcp://example.org:443"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Peers that a rule names.

    `protocols` are those the rule is about; `kind` says what `target` is: empty for `any` and `private`, a name, the
    name behind `*.`, an address or a network in canonical form. `ports` are ranges; all of them is one range.
    """

    protocols: tuple[Protocol, ...]
    kind: Kind
    target: str
    ports: tuple[tuple[int, int], ...] = (ALL_PORTS,)

    def __str__(self) -> str:
        """Write the endpoint as `parse_endpoint` reads it."""
        scheme = "" if self.protocols == _BOTH else f"{self.protocols[0]}://"
        target = {"any": "*", "private": "private", "wildcard": f"*.{self.target}"}.get(self.kind, self.target)
        if ":" in target:
            target = f"[{target}]"
        return f"{scheme}{target}" if self.ports == (ALL_PORTS,) else f"{scheme}{target}:{format_ranges(self.ports)}"


def check_endpoint(value: object) -> str:
    """Return one network rule in canonical spelling."""
    if not isinstance(value, str):
        raise RuleError(f"{value!r} is not a network rule", _REMEDY)
    return str(parse_endpoint(value))


def parse_endpoint(text: str) -> Endpoint:
    """Return the endpoint that `text` spells; raises RuleError with the position of the fault."""
    protocols, start = _parse_scheme(text)
    if text.startswith("[", start):
        target, end = _split_brackets(text, start)
        kind, name = _parse_bracketed(target, start)
    else:
        end = text.find(":", start)
        end = len(text) if end < 0 else end
        if text.count(":", start) > 1:
            raise RuleError("an IPv6 address needs brackets", f"write [{text[start:]}]", start)
        kind, name = _parse_target(text[start:end], start)
    if end == len(text):
        if start == end and not text:
            raise RuleError("the rule is empty", _REMEDY, 0)
        return Endpoint(protocols, kind, name)
    if text[end] != ":":
        raise RuleError(f"{text[end]!r} cannot follow the target", "write ':' and the ports", end)
    if protocols == ("icmp",):
        raise RuleError("ICMP has no ports", f"write {text[:end]}", end)
    return Endpoint(protocols, kind, name, parse_ranges(text[end + 1 :], offset=end + 1))


def _parse_scheme(text: str) -> tuple[tuple[Protocol, ...], int]:
    end = text.find("://")
    if end < 0:
        return _BOTH, 0
    scheme = text[:end].lower()
    if scheme not in _SCHEMES:
        web = "; rules about requests belong to http_allow" if scheme in ("http", "https") else ""
        raise RuleError(f"{text[:end]!r} is not a protocol here", f"write tcp://, udp:// or icmp://{web}", 0)
    return _SCHEMES[scheme], end + 3


def _split_brackets(text: str, start: int) -> tuple[str, int]:
    """Return what `[…]` or `[…]/BITS` holds, as one text, and where the rest starts."""
    close = text.find("]", start)
    if close < 0:
        raise RuleError("`[` has no `]`", "write [ADDRESS]:PORTS", start)
    inner = text[start + 1 : close]
    end = close + 1
    if text.startswith("/", end):
        stop = text.find(":", end)
        stop = len(text) if stop < 0 else stop
        inner += text[end:stop]
        end = stop
    return inner, end


def _parse_bracketed(inner: str, start: int) -> tuple[Kind, str]:
    if ":" not in inner:
        raise RuleError(f"{inner!r} is not an IPv6 address", "only those are written in brackets", start + 1)
    if "/" in inner:
        return "network", parse_network(inner, start + 1)
    return "address", parse_address(inner, start + 1)


def _parse_target(target: str, start: int) -> tuple[Kind, str]:
    if target in ("", "*"):
        return "any", ""
    if target == "private":
        return "private", ""
    if "/" in target:
        before = target.partition("/")[0]
        if before.strip("0123456789.") == "":
            return "network", parse_network(target, start)
        at = start + len(before)
        raise RuleError("a network rule has no path", "rules about paths belong to http_allow", at)
    if target.strip("0123456789.") == "":
        return "address", parse_address(target, start)
    name = parse_host(target, start)
    return ("wildcard", name[2:]) if name.startswith("*.") else ("host", name)
