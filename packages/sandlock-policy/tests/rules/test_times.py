"""Times are RFC 3339 with an offset, or aware datetimes."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_policy.errors import RuleError
from sandlock_policy.rules.times import parse_time, time_ns


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2030-01-31T12:00:00Z", "2030-01-31T12:00:00Z"),
        ("2030-01-31t12:00:00z", "2030-01-31T12:00:00Z"),
        ("2030-01-31 12:00:00+02:00", "2030-01-31T10:00:00Z"),
        ("2030-01-31T12:00:00.000000001-00:30", "2030-01-31T12:30:00.000000001Z"),
        ("2030-01-31T12:00:00.50Z", "2030-01-31T12:00:00.5Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        (dt.datetime(2030, 1, 31, 12, 0, 0, 5, tzinfo=dt.UTC), "2030-01-31T12:00:00.000005Z"),
    ],
)
def test_each_spelling_is_kept_in_utc(text: object, canonical: str) -> None:
    assert parse_time(text) == canonical
    assert parse_time(canonical) == canonical


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("2030-01-31T12:00:00", "has no offset"),
        (dt.datetime(2030, 1, 31), "has no offset"),  # noqa: DTZ001 - that it has none is the point
        (dt.date(2030, 1, 31), "is not a time"),
        ("2030-01-31", "is not a time"),
        ("2030-13-01T00:00:00Z", "month must be"),
        ("2030-02-30T00:00:00Z", "is not a time"),
        ("2030-01-31T12:00:60Z", "leap second"),
        ("2030-01-31T12:00:00+25:00", "not an offset"),
        ("2030-01-31T12:00:00+01:60", "not an offset"),
        ("1969-12-31T23:59:59Z", "out of the range"),
        ("1970-01-01T00:00:00+01:00", "out of the range"),
        ("2300-01-01T00:00:00Z", "out of the range"),
        ("0001-01-01T00:00:00+23:00", "out of range"),
        ("2030-01-31T12:00:00.1234567890Z", "is not a time"),
        ("\uff12030-01-31T12:00:00Z", "is not a time"),
        (1893456000, "is not a time"),
        (None, "is not a time"),
    ],
)
def test_what_is_no_time_is_refused(value: object, reason: str) -> None:
    with pytest.raises(RuleError, match=reason):
        parse_time(value)


@given(st.integers(0, 9_214_646_399), st.integers(0, 999_999_999), st.integers(-1439, 1439))
def test_nanoseconds_survive_any_offset(seconds: int, nanoseconds: int, minutes: int) -> None:
    zone = dt.timezone(dt.timedelta(minutes=minutes))
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
    text = f"{moment.astimezone(zone).replace(tzinfo=None).isoformat()}.{nanoseconds:09d}"
    sign, size = ("-", -minutes) if minutes < 0 else ("+", minutes)
    canonical = parse_time(f"{text}{sign}{size // 60:02d}:{size % 60:02d}") if text[:4] >= "1970" else None
    if canonical is not None:
        assert time_ns(canonical) == seconds * 10**9 + nanoseconds
