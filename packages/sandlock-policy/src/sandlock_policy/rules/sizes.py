"""Sizes in bytes: `4096`, `64K`, `512M`, `2G`, `1T`, `64KiB`."""

from __future__ import annotations

from sandlock_policy.errors import RuleError

__all__ = ["format_size", "parse_size"]

_UNITS = {"": 0, "B": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_REMEDY = "write bytes, or a number with K, M, G or T (1024-based), such as 512M"
_LARGEST = 2**63 - 1  # loff_t and rlim_t hold no more


def parse_size(value: object) -> int:
    """Return the bytes that `value` stands for; units are 1024-based, with or without `iB`, in either case."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str):
        size = _parse_text(value)
    else:
        raise RuleError(f"{value!r} is not a size", _REMEDY)
    if not 1 <= size <= _LARGEST:
        raise RuleError(f"{value} is not a size from 1 to {_LARGEST} bytes", _REMEDY)
    return size


def format_size(size: int) -> str:
    """Write `size` with the largest unit that divides it, so that `parse_size` gives it back exactly."""
    for unit, shift in (("T", 40), ("G", 30), ("M", 20), ("K", 10)):
        if size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)


def _parse_text(text: str) -> int:
    digits = 0
    while digits < len(text) and text[digits] in "0123456789":
        digits += 1
    if digits == 0:
        raise RuleError(f"{text!r} is not a size", _REMEDY, position=0)
    if digits > 19:  # more than any file or limit can have
        raise RuleError(f"the size has {digits} digits", _REMEDY, position=19)
    unit = text[digits:].upper()
    if unit.endswith("IB") and len(unit) == 3:
        unit = unit[0]
    if unit not in _UNITS:
        raise RuleError(f"{text[digits:]!r} is not a unit of size", _REMEDY, position=digits)
    return int(text[:digits]) << _UNITS[unit]
