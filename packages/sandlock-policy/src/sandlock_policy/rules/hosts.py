"""Host names, wildcards, addresses and networks."""

from __future__ import annotations

import ipaddress

from sandlock_policy.errors import RuleError

__all__ = ["parse_address", "parse_host", "parse_network"]

_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def parse_host(text: str, position: int = 0, *, wildcard: bool = True) -> str:
    """Return a host name in lower case without its final dot; `*.` in front is one or more labels.

    `position` is where `text` starts in what the user wrote. Raises RuleError for what is no name, and for what only
    looks like one: `127.1` and `0x7f000001` are addresses to the resolver.
    """
    if not text.isascii():
        raise RuleError(f"{text!r} is not ASCII", f"write {_idna(text)!r}", position)
    name = text.lower().removesuffix(".")
    body = name[2:] if wildcard and name.startswith("*.") else name
    at = position + len(name) - len(body)
    if "*" in body:
        raise RuleError("`*` stands for whole labels in front only", "write '*.example.org'", at + body.index("*"))
    if not body or len(body) > 253:  # RFC 1035, 2.3.4
        raise RuleError(f"a host name has 1 to 253 characters, not {len(body)}", position=at)
    for label in body.split("."):
        wrong = next((index for index, char in enumerate(label) if char not in _LABEL), None)
        if wrong is not None:
            raise RuleError(f"{label[wrong]!r} cannot be in a host name", position=at + wrong)
        if not label or len(label) > 63 or label[0] == "-" or label[-1] == "-":
            raise RuleError(f"{label!r} is not a label of a host name", position=at)
        at += len(label) + 1
    last = body.rpartition(".")[2]
    if last.isdigit() or last.startswith("0x"):
        raise RuleError(f"{body!r} would be read as an address", "write four decimal numbers for IPv4", position)
    return name


def parse_address(text: str, position: int = 0) -> str:
    """Return an IPv4 or IPv6 address in canonical form; an IPv4-mapped one is the IPv4 address."""
    if "%" in text:
        remedy = f"write {text.partition('%')[0]}"
        raise RuleError("an address in a rule has no zone", remedy, position + text.index("%"))
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        at, reason, remedy = _find_fault(text)
        raise RuleError(f"{text!r} is not an address{reason}", remedy, position + at) from None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def parse_network(text: str, position: int = 0) -> str:
    """Return `ADDRESS/BITS` in canonical form; host bits that are set are a mistake, not a network."""
    address, _, bits = text.partition("/")
    canonical = parse_address(address, position)
    width = 32 if "." in canonical else 128
    at = position + len(address) + 1
    if width == 32 and ":" in address:  # its prefix would count from the IPv6 side
        less = int(bits) - 96 if bits.isdigit() and 96 <= int(bits) <= 128 else 32
        raise RuleError("a network of IPv4-mapped addresses is an IPv4 network", f"write {canonical}/{less}", position)
    if not (bits.isascii() and bits.isdigit() and len(bits) <= 3 and int(bits) <= width):
        raise RuleError(f"{bits!r} is not a prefix length from 0 to {width}", "write such as 10.0.0.0/8", at)
    network = ipaddress.ip_network(f"{canonical}/{bits}", strict=False)
    if str(network.network_address) != canonical:
        raise RuleError(f"{text} has bits behind its prefix", f"write {network}", position)
    return str(network)


def _find_fault(text: str) -> tuple[int, str, str]:
    """Return where an address goes wrong, how, and what to write instead; all of it if no character is to blame."""
    allowed = "0123456789abcdefABCDEF:." if ":" in text else "0123456789."
    wrong = next((index for index, char in enumerate(text) if char not in allowed), None)
    if wrong is not None:
        return wrong, f": {text[wrong]!r} cannot be in one", ""
    if ":" in text:
        return 0, "", ""
    at = 0
    for number in text.split("."):
        if not number or len(number) > 3 or int(number) > 255 or (len(number) > 1 and number[0] == "0"):
            remedy = f"write {int(number)}" if number and number[0] == "0" and int(number) < 256 else ""
            return at, f": {number!r} is not a number from 0 to 255", remedy
        at += len(number) + 1
    return 0, ": IPv4 has four numbers", "write such as 10.0.0.1"


def _idna(text: str) -> str:
    try:
        return text.encode("idna").decode("ascii")
    except UnicodeError:
        return "the name in its ASCII form"
