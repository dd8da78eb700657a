"""Ports: single ones, comma lists and ranges."""

from __future__ import annotations

from collections.abc import Iterable

from sandlock_policy.errors import RuleError

__all__ = ["ALL_PORTS", "check_bind", "format_ranges", "parse_bind", "parse_port", "parse_ports", "parse_ranges"]

ALL_PORTS = (1, 65535)  # RFC 6335, 6: port 0 is reserved
_REMEDY = "write ports such as 443, 80,443 or 8000-8010, or * for all"


def parse_ranges(text: str, *, low: int = 1, offset: int = 0) -> tuple[tuple[int, int], ...]:
    """Return `text`, a comma list of ports and ranges or `*`, as sorted ranges that neither touch nor overlap.

    Ports are from `low`; `offset` is where `text` starts in what the user wrote, for the position in RuleError.
    """
    if text == "*":
        return (ALL_PORTS,)
    ranges = []
    position = offset
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start = _parse_number(first, low, position)
        end = _parse_number(last, low, position + len(first) + 1) if dash else start
        if end < start:
            raise RuleError(f"the range {part} ends before it starts", f"write {end}-{start}", position)
        ranges.append((start, end))
        position += len(part) + 1
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def format_ranges(ranges: Iterable[tuple[int, int]]) -> str:
    """Write ranges as `parse_ranges` reads them."""
    texts = [str(start) if start == end else f"{start}-{end}" for start, end in ranges]
    return "*" if texts == [f"{ALL_PORTS[0]}-{ALL_PORTS[1]}"] else ",".join(texts)


def parse_bind(value: object) -> tuple[tuple[int, int], ...]:
    """Return the ranges of one item of a bind list; 0 stands for a port that the kernel picks."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise RuleError(f"{value!r} is not a port", _REMEDY)
    return parse_ranges(value, low=0)


def check_bind(value: object) -> int | str:
    """Return one item of a bind list in canonical form: an int for a single port, text for more."""
    text = format_ranges(parse_bind(value))
    return int(text) if text.isdigit() else text


def parse_port(value: object) -> int:
    """Return a single port."""
    ranges = parse_bind(value)
    if len(ranges) != 1 or ranges[0][0] != ranges[0][1] or ranges[0][0] == 0:
        raise RuleError(f"{value!r} is not a single port", "name each port by itself, from 1 to 65535")
    return ranges[0][0]


def parse_ports(specs: Iterable[int | str]) -> list[int]:
    """Return every port that `specs` names, sorted, each once; raises RuleError for an item that is no port list."""
    ports: set[int] = set()
    for spec in specs:
        for start, end in parse_bind(spec):
            ports.update(range(start, end + 1))
    return sorted(ports)


def _parse_number(text: str, low: int, position: int) -> int:
    if not (text.isascii() and text.isdigit()):
        wrong = next((index for index, char in enumerate(text) if char not in "0123456789"), 0)
        raise RuleError(f"{text!r} is not a port", _REMEDY, position + wrong)
    if len(text) > 5 or not low <= int(text) <= ALL_PORTS[1]:
        raise RuleError(f"{text} is not a port from {low} to {ALL_PORTS[1]}", _REMEDY, position)
    return int(text)
