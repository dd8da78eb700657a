"""Sizes are bytes, or numbers with a 1024-based unit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_policy.errors import RuleError
from sandlock_policy.rules.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("1B", 1),
        ("64K", 64 << 10),
        ("64k", 64 << 10),
        ("64KiB", 64 << 10),
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("2gib", 2 << 30),
        ("1T", 1 << 40),
    ],
)
def test_each_spelling_is_understood(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("12Q", "'Q' is not a unit", 2),
        ("1KB", "'KB' is not a unit", 1),
        ("1.5G", "'.5G' is not a unit", 1),
        (" 1", "is not a size", 0),
        ("", "is not a size", 0),
        ("-1", "is not a size", 0),
        ("\uff11M", "is not a size", 0),
        ("9" * 20, "20 digits", 19),
        ("0", "not a size from 1", None),
        (0, "not a size from 1", None),
        (-1, "not a size from 1", None),
        ("8388608T", "not a size from 1", None),
        (True, "is not a size", None),
        (1.5, "is not a size", None),
        (None, "is not a size", None),
    ],
)
def test_what_is_no_size_is_refused_with_the_place(text: object, reason: str, position: int | None) -> None:
    with pytest.raises(RuleError, match=reason) as caught:
        parse_size(text)
    assert caught.value.position == position


@given(st.integers(1, 2**63 - 1))
def test_a_written_size_reads_back_exactly(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_a_written_size_uses_the_largest_unit() -> None:
    assert [format_size(size) for size in (1, 1 << 10, 3 << 20, 1 << 30, 1 << 40)] == ["1", "1K", "3M", "1G", "1T"]
