"""Join instructions and labels into code: branches learn their distance here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sandlock_arch.errors import EncodeError

__all__ = ["Branch", "Item", "Label", "assemble"]


@dataclass(frozen=True, slots=True)
class Label:
    """A place in the code."""

    name: str


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch to label `to`; `encode` gets the distance in bytes from the branch's own start to the label.

    The length of what `encode` returns must not depend on the distance.
    """

    to: str
    encode: Callable[[int], bytes]


Item = bytes | Label | Branch


def assemble(items: Iterable[Item]) -> bytes:
    """Return the code of `items`; raise `EncodeError` for an unknown or double label, or a distance too far."""
    sequence = tuple(items)
    places: dict[str, int] = {}
    position = 0
    for item in sequence:
        if isinstance(item, Label):
            if item.name in places:
                raise EncodeError(f"label {item.name!r} is set twice")
            places[item.name] = position
        else:
            position += _length(item)
    code = bytearray()
    for item in sequence:
        if isinstance(item, bytes):
            code += item
        elif isinstance(item, Branch):
            if item.to not in places:
                raise EncodeError(f"no label {item.to!r}")
            code += item.encode(places[item.to] - len(code))
    return bytes(code)


def _length(item: bytes | Branch) -> int:
    return len(item) if isinstance(item, bytes) else len(item.encode(0))
