"""Overlapping ranges of integers, flattened so that one binary search finds the first of them that covers a value."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Generic, TypeVar

__all__ = ["Intervals"]

T = TypeVar("T")


class Intervals(Generic[T]):
    """Maps each integer to the item of the first range that covers it.

    Building costs O(n log n) for n ranges, looking up one bisection: 14 comparisons for 10,000 ranges, 4 for 10.
    """

    __slots__ = ("_items", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int, T]]) -> None:
        """Flatten `ranges`, each (first, last, item) with both ends inside; an earlier one wins over a later one."""
        self._starts: list[int] = []
        self._items: list[T | None] = []
        listed = list(ranges)
        order = sorted(range(len(listed)), key=lambda rank: listed[rank][0])
        active: list[int] = []  # ranks of ranges that have started, the winning one first
        ends = {last + 1 for _, last, _ in listed}
        following = 0
        for point in sorted(ends.union(first for first, _, _ in listed)):
            while following < len(order) and listed[order[following]][0] == point:
                heappush(active, order[following])
                following += 1
            while active and listed[active[0]][1] < point:
                heappop(active)
            item = listed[active[0]][2] if active else None
            if not self._items or self._items[-1] is not item:
                self._starts.append(point)
                self._items.append(item)

    def __bool__(self) -> bool:
        """Tell whether there is any range."""
        return bool(self._starts)

    def find(self, value: int) -> T | None:
        """Return the item of the first range that covers `value`, or None."""
        index = bisect_right(self._starts, value)
        return self._items[index - 1] if index else None
