"""Which lines differ: patience diff, in time that no content can blow up.

Lines that both sides have exactly once are the fixed points; what lies between two of them is compared line by line as
long as that is cheap, and told as replaced where it is not. Always right, and short for what people write.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Edit", "edits", "hunks"]

Edit = tuple[int, int, int, int]  # lines [a0:a1] of the old side became [b0:b1] of the new one

_CONTEXT = 3
_CHEAP = 40_000  # pairs of lines in one gap; comparing is quadratic, and cubic at the worst
_BUDGET = 1_000_000  # in all gaps together


def edits(old: Sequence[bytes], new: Sequence[bytes]) -> list[Edit]:
    """Return what became of `old`, in order, with an equal line between any two of them."""
    found: list[Edit] = []
    budget = _BUDGET
    for gap in _gaps(old, new):
        a0, a1, b0, b1 = _trimmed(old, new, *gap)
        cost = (a1 - a0) * (b1 - b0)
        if 0 < cost <= min(_CHEAP, budget):
            budget -= cost
            matcher = SequenceMatcher(None, old[a0:a1], new[b0:b1], autojunk=False)
            inner = [(a0 + i, a0 + j, b0 + k, b0 + m) for tag, i, j, k, m in matcher.get_opcodes() if tag != "equal"]
        else:
            inner = [(a0, a1, b0, b1)] if a1 > a0 or b1 > b0 else []
        for edit in inner:
            if found and found[-1][1] == edit[0] and found[-1][3] == edit[2]:
                found[-1] = (found[-1][0], edit[1], found[-1][2], edit[3])
            else:
                found.append(edit)
    return found


def _trimmed(old: Sequence[bytes], new: Sequence[bytes], a0: int, a1: int, b0: int, b1: int) -> Edit:
    while a0 < a1 and b0 < b1 and old[a0] == new[b0]:
        a0, b0 = a0 + 1, b0 + 1
    while a0 < a1 and b0 < b1 and old[a1 - 1] == new[b1 - 1]:
        a1, b1 = a1 - 1, b1 - 1
    return a0, a1, b0, b1


def _gaps(old: Sequence[bytes], new: Sequence[bytes]) -> Iterator[Edit]:
    """Yield what lies between the fixed points: the longest run of unique lines that are in the same order."""
    a0, a1, b0, b1 = _trimmed(old, new, 0, len(old), 0, len(new))
    once_old = {line for line, count in Counter(old[a0:a1]).items() if count == 1}
    once_new = {line for line, count in Counter(new[b0:b1]).items() if count == 1}
    both = once_old & once_new
    at = {line: number for number, line in enumerate(new[b0:b1], b0) if line in both}
    pairs = [(number, at[line]) for number, line in enumerate(old[a0:a1], a0) if line in both]
    for a, b in _rising(pairs):
        yield a0, a, b0, b
        a0, b0 = a + 1, b + 1
    yield a0, a1, b0, b1


def _rising(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return a longest part of `pairs`, which rise in the first number, that rises in the second too."""
    ends: list[int] = []  # ends[n]: the smallest second number that a run of n + 1 pairs ends with
    last: list[int] = []  # the pair behind it
    before: list[int] = []
    for index, (_, b) in enumerate(pairs):
        length = bisect_left(ends, b)
        before.append(last[length - 1] if length else -1)
        if length == len(ends):
            ends.append(b)
            last.append(index)
        else:
            ends[length] = b
            last[length] = index
    run = []
    index = last[-1] if last else -1
    while index >= 0:
        run.append(pairs[index])
        index = before[index]
    return run[::-1]


def hunks(old: Sequence[bytes], new: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the hunks of a unified diff, line by line, each ended by a newline."""
    group: list[Edit] = []
    for edit in edits(old, new):
        if group and edit[0] - group[-1][1] > 2 * _CONTEXT:
            yield from _hunk(old, new, group)
            group = []
        group.append(edit)
    if group:
        yield from _hunk(old, new, group)


def _hunk(old: Sequence[bytes], new: Sequence[bytes], group: list[Edit]) -> Iterator[bytes]:
    a0, b0 = max(group[0][0] - _CONTEXT, 0), max(group[0][2] - _CONTEXT, 0)
    a1, b1 = min(group[-1][1] + _CONTEXT, len(old)), min(group[-1][3] + _CONTEXT, len(new))
    yield b"@@ -%s +%s @@\n" % (_range(a0, a1), _range(b0, b1))
    at = a0
    for i, j, k, m in group:
        for mark, lines in ((b" ", old[at:i]), (b"-", old[i:j]), (b"+", new[k:m])):
            for line in lines:
                yield mark + line if line.endswith(b"\n") else mark + line + b"\n\\ No newline at end of file\n"
        at = j
    for line in old[at:a1]:
        yield b" " + line if line.endswith(b"\n") else b" " + line + b"\n\\ No newline at end of file\n"


def _range(start: int, end: int) -> bytes:
    length = end - start
    if length == 1:
        return b"%d" % (start + 1)
    return b"%d,%d" % (start + 1 if length else start, length)
