"""Durations in seconds: `10`, `0.5`, `500ms`, `10s`, `5m`, `2h`, `1d`."""

from __future__ import annotations

from sandlock_policy.errors import RuleError

__all__ = ["parse_duration", "parse_duration_or_zero"]

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_REMEDY = "write seconds, or a number with ms, s, m, h or d, such as 90s"
_LONGEST = 100 * 366 * 86400.0  # a century: what a timer may be given without overflowing anywhere


def parse_duration(value: object) -> float:
    """Return a duration in seconds that is more than zero."""
    seconds = parse_duration_or_zero(value)
    if seconds == 0.0:
        raise RuleError("zero is not a duration", "leave the field out for no limit")
    return seconds


def parse_duration_or_zero(value: object) -> float:
    """Return a duration in seconds, zero or more."""
    if isinstance(value, str):
        seconds = _parse_text(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise RuleError(f"{value!r} is not a duration", _REMEDY)
    if not 0.0 <= seconds <= _LONGEST:  # NaN fails this too
        raise RuleError(f"{value} is not a duration from 0 to {_LONGEST:.0f} seconds", _REMEDY)
    return seconds


def _parse_text(text: str) -> float:
    end = 0
    while end < len(text) and text[end] in "0123456789.":
        end += 1
    if not end:
        raise RuleError(f"{text!r} is not a duration", _REMEDY, position=0)
    if text[end:] not in _UNITS:
        raise RuleError(f"{text[end:]!r} is not a unit of time", _REMEDY, position=end)
    try:
        return float(text[:end]) * _UNITS[text[end:]]
    except ValueError:
        raise RuleError(f"{text!r} is not a duration", _REMEDY, position=0) from None
