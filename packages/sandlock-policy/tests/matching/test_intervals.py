"""Flattened ranges say what a linear scan says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandlock_policy.matching.intervals import Intervals

spans = st.tuples(st.integers(0, 40), st.integers(0, 10)).map(lambda pair: (pair[0], pair[0] + pair[1]))


far = st.tuples(st.integers(0, 2**128), st.integers(0, 2**100)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(st.one_of(spans, far), max_size=30), st.lists(st.integers(-1, 2**129), max_size=5))
def test_distant_values_are_found_as_well(pairs: list[tuple[int, int]], others: list[int]) -> None:
    table = Intervals([(first, last, f"rule {rank}") for rank, (first, last) in enumerate(pairs)])
    for value in [*others, *(edge + step for pair in pairs for edge in pair for step in (-1, 0, 1))]:
        scan = next((f"rule {rank}" for rank, (first, last) in enumerate(pairs) if first <= value <= last), None)
        assert table.find(value) == scan


@given(st.lists(spans, max_size=12))
def test_the_first_range_that_covers_a_value_wins(pairs: list[tuple[int, int]]) -> None:
    table = Intervals([(first, last, f"rule {rank}") for rank, (first, last) in enumerate(pairs)])
    for value in range(-1, 53):
        scan = next((f"rule {rank}" for rank, (first, last) in enumerate(pairs) if first <= value <= last), None)
        assert table.find(value) == scan
    assert bool(table) == bool(pairs)


class Counting(int):
    """A number that counts how often it is compared."""

    seen = 0

    def __lt__(self, other: int) -> bool:
        Counting.seen += 1
        return int(self) < other


def test_ten_thousand_ranges_cost_a_lookup_what_ten_do_in_comparisons() -> None:
    costs = []
    for count in (10, 10_000):
        table = Intervals([(rank * 2, rank * 2, f"rule {rank}") for rank in range(count)])
        Counting.seen = 0
        assert table.find(Counting(8)) == "rule 4"
        costs.append(Counting.seen)
    assert costs[1] <= costs[0] + 2 <= 6  # a scan would take thousands, a plain bisection 15
