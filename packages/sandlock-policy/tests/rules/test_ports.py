"""Ports, lists and ranges of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_policy.errors import RuleError
from sandlock_policy.rules.ports import check_bind, format_ranges, parse_port, parse_ports, parse_ranges


def test_a_bind_item_is_a_port_a_list_or_everything() -> None:
    assert [check_bind(item) for item in (80, "80", "80,81,90", "8000-8010", "*", 0, "1-65535")] == [
        80,
        80,
        "80-81,90",
        "8000-8010",
        "*",
        0,
        "*",
    ]


@pytest.mark.parametrize("item", ["", "x", "70000", -1, 65536, True, None, 1.5, "80-", "-80", "1,,2", "٣"])
def test_what_is_no_port_is_refused(item: object) -> None:
    with pytest.raises(RuleError):
        check_bind(item)


@pytest.mark.parametrize("item", ["80,443", "1-2", "*", 0])
def test_an_intercepted_port_is_a_single_one(item: object) -> None:
    assert parse_port("443") == 443
    with pytest.raises(RuleError, match="not a single port"):
        parse_port(item)


def test_parse_ports_gives_every_port_once() -> None:
    assert parse_ports(["80", "8000-8002", 443, "8001,80"]) == [80, 443, 8000, 8001, 8002]


ranges = st.lists(st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda p: (min(p), max(p))), min_size=1)


@given(ranges)
def test_ranges_are_joined_and_read_back(pairs: list[tuple[int, int]]) -> None:
    parsed = parse_ranges(",".join(f"{start}-{end}" for start, end in pairs))
    assert parse_ranges(format_ranges(parsed)) == parsed
    assert {p for start, end in parsed for p in (start, end)} <= {p for pair in pairs for p in pair}
    assert all(one[1] + 1 < two[0] for one, two in itertools.pairwise(parsed))
    for start, end in pairs:
        assert any(low <= start and end <= high for low, high in parsed)
