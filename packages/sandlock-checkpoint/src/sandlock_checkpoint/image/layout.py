"""Where an area's bytes stand in its data file: arithmetic on runs and blocks, no I/O.

The *stream* of an area's own runs is their bytes one after the other. It is cut into blocks of BLOCK bytes, the last
one shorter. A *piece* is a part of a run within one block.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from sandlock_checkpoint.image.format import BLOCK, PACKED, SPARSE, SPARSE_LIMIT
from sandlock_checkpoint.memory import Run

__all__ = ["Stream", "choose_layout", "data_size", "intersect", "merge", "subtract", "total", "within"]


_MANY = 256  # runs
_SMALL = 1 << 15  # bytes of one, on average


def total(runs: Iterable[Run]) -> int:
    """Return the bytes in `runs`."""
    return sum(run.length for run in runs)


def choose_layout(runs: Sequence[Run], *, compressed: bool) -> str:
    """Return the layout of a data file with these runs.

    Many small runs are packed: each would take a write of its own while a process waits, and none is long enough to be
    mapped.
    """
    scattered = len(runs) >= _MANY and total(runs) < len(runs) * _SMALL
    return PACKED if compressed or scattered or runs[-1].offset + runs[-1].length > SPARSE_LIMIT else SPARSE


def data_size(runs: Sequence[Run], layout: str, stored: Sequence[int]) -> int:
    """Return the bytes of the data file; `stored` are the lengths of compressed blocks, empty without."""
    if stored:
        return sum(stored)
    return runs[-1].offset + runs[-1].length if layout == SPARSE else total(runs)


class Stream:
    """The stream of some runs, ascending and disjoint."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._offsets = [run.offset for run in runs]
        self._starts = [0, *accumulate(run.length for run in runs)]  # of each run in the stream; the last is the end
        self.size = self._starts[-1]
        self.blocks = -(-self.size // BLOCK)

    def block_size(self, block: int) -> int:
        """Return the bytes of block `block`."""
        return min(BLOCK, self.size - block * BLOCK)

    def pieces(self, start: int, length: int) -> Iterator[Run]:
        """Yield the runs' parts that are bytes `start` to `start + length` of the stream, in order."""
        index = bisect.bisect_right(self._starts, start) - 1
        while length > 0:
            run = self._runs[index]
            skip = start - self._starts[index]
            count = min(run.length - skip, length)
            yield Run(run.offset + skip, count)
            start += count
            length -= count
            index += 1

    def find(self, run: Run) -> int:
        """Return where in the stream `run` is, which must be within one of its runs; -1 when it is not."""
        index = bisect.bisect_right(self._offsets, run.offset) - 1
        if index < 0:
            return -1
        skip = run.offset - self._offsets[index]
        if skip + run.length > self._runs[index].length:
            return -1
        return self._starts[index] + skip


def merge(runs: Iterable[Run]) -> list[Run]:
    """Return the same bytes in as few runs as possible; `runs` are ascending and disjoint."""
    merged: list[Run] = []
    for run in runs:
        if merged and merged[-1].offset + merged[-1].length == run.offset:
            merged[-1] = Run(merged[-1].offset, merged[-1].length + run.length)
        else:
            merged.append(run)
    return merged


def intersect(ours: Sequence[Run], theirs: Sequence[Run]) -> list[Run]:
    """Return what is in both; each is ascending and disjoint."""
    common: list[Run] = []
    one = two = 0
    while one < len(ours) and two < len(theirs):
        start, length = ours[one]
        other, other_length = theirs[two]
        end, other_end = start + length, other + other_length
        first, last = max(start, other), min(end, other_end)
        if first < last:
            common.append(Run(first, last - first))
        if end <= other_end:
            one += 1
        else:
            two += 1
    return common


def within(runs: Sequence[Run], place: Run) -> list[Run]:
    """Return what of `runs`, ascending and disjoint, lies in `place`; quick where that is little of many."""
    low = max(0, bisect.bisect_right(runs, place.offset, key=_offset) - 1)
    high = bisect.bisect_left(runs, place.offset + place.length, lo=low, key=_offset)
    return intersect([place], runs[low:high])


def _offset(run: Run) -> int:
    return run.offset


def subtract(ours: Sequence[Run], theirs: Sequence[Run]) -> list[Run]:
    """Return what is in `ours` and not in `theirs`; each is ascending and disjoint."""
    rest = []
    two = 0
    for offset, length in ours:
        start, end = offset, offset + length
        while two < len(theirs) and theirs[two].offset + theirs[two].length <= start:
            two += 1
        index = two
        while index < len(theirs) and theirs[index].offset < end:
            if theirs[index].offset > start:
                rest.append(Run(start, theirs[index].offset - start))
            start = max(start, theirs[index].offset + theirs[index].length)
            index += 1
        if start < end:
            rest.append(Run(start, end - start))
    return rest
