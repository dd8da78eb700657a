"""Points in time: RFC 3339 with an offset, or an aware datetime."""

from __future__ import annotations

import datetime as dt
import re

from sandlock_policy.errors import RuleError

__all__ = ["parse_time", "time_ns"]

_REMEDY = "write a time with an offset, such as 2030-01-31T12:00:00Z or 2030-01-31T12:00:00+02:00"
# RFC 3339, 5.6, with `T` and `Z` in either case or a space, and up to nine digits of a second.
_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LAST = dt.datetime(2262, 1, 1, tzinfo=dt.UTC)  # KTIME_MAX is in April 2262


def parse_time(value: object) -> str:
    """Return `value` in UTC as RFC 3339, with as many digits of a second as it takes."""
    if isinstance(value, dt.datetime):
        moment, nanoseconds = value, value.microsecond * 1000
        if moment.tzinfo is None:
            raise RuleError(f"{value.isoformat()} has no offset from UTC", _REMEDY)
    elif isinstance(value, str):
        moment, nanoseconds = _parse_text(value)
    else:
        raise RuleError(f"{value!r} is not a time", _REMEDY)
    try:
        moment = moment.replace(microsecond=0).astimezone(dt.UTC)
    except OverflowError:
        raise RuleError(f"{value} is out of range", "write a time from 1970 to 2261") from None
    if not _EPOCH <= moment < _LAST:
        raise RuleError(f"{value} is out of the range of the clock", "write a time from 1970 to 2261")
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def time_ns(text: str) -> int:
    """Return the nanoseconds since 1970 of what `parse_time` returned."""
    moment, nanoseconds = _parse_text(text)
    delta = moment - _EPOCH
    return (delta.days * 86400 + delta.seconds) * 10**9 + nanoseconds


def _parse_text(text: str) -> tuple[dt.datetime, int]:
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise RuleError(f"{text!r} is not a time", _REMEDY)
    *numbers, fraction, offset = found.groups()
    if offset is None:
        raise RuleError(f"{text} has no offset from UTC", f"write {text}Z for UTC", len(text))
    if numbers[5] == "60":
        raise RuleError("a clock cannot start in a leap second", _REMEDY, found.start(6))
    zone = dt.UTC
    if offset not in "Zz":
        minutes = int(offset[1:3]) * 60 + int(offset[4:6])
        if minutes >= 24 * 60 or int(offset[4:6]) > 59:
            raise RuleError(f"{offset} is not an offset from UTC", _REMEDY, found.start(8))
        zone = dt.timezone(dt.timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    try:
        moment = dt.datetime(*[int(number) for number in numbers], tzinfo=zone)  # type: ignore[misc,arg-type]
    except ValueError as fault:
        raise RuleError(f"{text} is not a time: {fault}", _REMEDY) from None
    return moment, int((fraction or "").ljust(9, "0"))
