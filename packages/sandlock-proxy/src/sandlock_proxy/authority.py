"""The host and port that a request names, in one form (NET-15)."""

from __future__ import annotations

from dataclasses import dataclass

from sandlock_policy.errors import RuleError
from sandlock_policy.rules.hosts import parse_address, parse_host
from sandlock_proxy.errors import Refusal

__all__ = ["Authority", "parse_authority", "split_absolute"]

USUAL_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Authority:
    """`host` is a name in lower case without its final dot, or an address in canonical form; `port` a number."""

    host: str
    port: int

    @property
    def is_address(self) -> bool:
        """Tell whether the host is an address."""
        return ":" in self.host or self.host.strip("0123456789.") == ""

    def header(self, scheme: str) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == USUAL_PORTS[scheme] else f"{host}:{self.port}"


def parse_authority(text: str, scheme: str) -> Authority:
    """Return the authority that `text` (`host`, `host:port`) spells; raises Refusal(400) for every other form.

    User names, escapes, lists, zones and addresses in a form that only some programs understand are refused.
    """
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in inside:
            raise Refusal(400, "the host has brackets without an IPv6 address", close=True)
    else:
        inside, colon, after = text.partition(":")
        rest = colon + after
    try:
        is_address = text.startswith("[") or inside.strip("0123456789.") == ""
        host = parse_address(inside) if is_address else parse_host(inside, wildcard=False)
    except RuleError:
        raise Refusal(400, "the host is no name and no address", close=True) from None
    return Authority(host, _parse_port(rest, scheme))


def split_absolute(target: bytes) -> tuple[str, str, bytes]:
    """Return (scheme, authority, origin form) of a target in absolute form; raises Refusal(400) for other schemes."""
    scheme, mark, rest = target.partition(b"://")
    name = scheme.decode("ascii").lower()
    if not mark or name not in USUAL_PORTS:
        raise Refusal(400, "the target is neither a path nor an http or https address", close=True)
    end = min((at for at in (rest.find(b"/"), rest.find(b"?"), rest.find(b"#")) if at >= 0), default=len(rest))
    origin = rest[end:]
    return name, rest[:end].decode("ascii"), origin if origin.startswith(b"/") else b"/" + origin


def _parse_port(text: str, scheme: str) -> int:
    if text in ("", ":"):  # RFC 3986, 3.2.3: an empty port is the usual one
        return USUAL_PORTS[scheme]
    digits = text[1:]
    if text[0] != ":" or not (digits.isascii() and digits.isdigit()) or len(digits) > 5 or not 0 < int(digits) < 65536:
        raise Refusal(400, "the port of the host is no port", close=True)
    return int(digits)
