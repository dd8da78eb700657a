"""Paired measurement: the cases take turns, so that a machine that drifts slows all of them alike.

Only ratios within one run mean something; the milliseconds beside them say how large the thing is that is compared.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Fact", "Row", "compare", "paired", "report", "seconds"]


@dataclass(frozen=True, slots=True)
class Row:
    """One case against the base of its run.

    Attributes:
        name: what was measured.
        base: what it is compared with.
        median_ms: median of its own time.
        ratio: median of the ratios, pair by pair.
        low: 10th percentile of the ratios, the least one of fewer than ten pairs.
        high: 90th percentile, or the greatest one.
        budget: the ratio that the design allows, or None.
        pairs: of how many pairs that is.
        clock: what was compared: the `wall` clock, or the `cpu` time of all that takes part.

    """

    name: str
    base: str
    median_ms: float
    ratio: float
    low: float
    high: float
    budget: float | None
    pairs: int
    clock: str = "wall"


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure that is compared with nothing.

    Attributes:
        name: what was measured or counted.
        value: the figure, a median where there is a spread.
        unit: of the figure.
        low: the least that was seen, None where it was taken once; high: the greatest.
        most: what the design allows, or None.

    """

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    most: float | None = None


def seconds(action: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    before = time.perf_counter()
    action()
    return time.perf_counter() - before


def compare(
    base: tuple[str, Callable[[], object]],
    cases: Mapping[str, tuple[Callable[[], object], float | None]],
    *,
    rounds: int,
) -> list[Row]:
    """Measure `base` and every case (action, budget) in turns that begin elsewhere each time.

    There are `rounds` of them, after three that do not count.
    """
    name, action = base
    names = list(cases)
    pairs: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
    for turn in range(rounds + 3):
        first = seconds(action)
        at = turn % max(1, len(cases))
        for case in [*names[at:], *names[:at]]:  # who follows the base finds caches and processors as that left them
            took = seconds(cases[case][0])
            if turn >= 3:
                pairs[case].append((took, first))
    return [paired(case, name, pairs[case], budget) for case, (_, budget) in cases.items()]


def paired(
    name: str, base: str, pairs: Sequence[tuple[float, float]], budget: float | None = None, clock: str = "wall"
) -> Row:
    """Return the row of these pairs: the seconds of what was measured, and of `base` in the same turn."""
    ratios, tenth = sorted(took / other for took, other in pairs), len(pairs) // 10
    return Row(
        name=name,
        base=base,
        median_ms=statistics.median(took for took, _ in pairs) * 1e3,
        ratio=statistics.median(ratios),
        low=ratios[tenth],
        high=ratios[-1 - tenth],
        budget=budget,
        pairs=len(pairs),
        clock=clock,
    )


def report(title: str, rows: Sequence[Row], facts: Sequence[Fact] = ()) -> None:
    """Print a Markdown table of each kind, or one line of JSON where `--json` was given."""
    if "--json" in sys.argv:
        found = {"title": title, "rows": [asdict(row) for row in rows], "facts": [asdict(fact) for fact in facts]}
        print(json.dumps(found), flush=True)
        return
    print(f"\n{title} (kernel {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()})\n")
    if rows:
        print("| case | ms | x of | ratio | 10th..90th | budget |")
        print("|---|---|---|---|---|---|")
    for row in rows:
        budget = f"{row.budget:.2f}" if row.budget is not None else ""
        spread = f"{row.low:.2f}..{row.high:.2f}"
        print(f"| {row.name} | {row.median_ms:.3f} | {row.base} | {row.ratio:.2f} | {spread} | {budget} |")
    for fact in facts:
        spread = "" if fact.low is None else f" ({fact.low:g}..{fact.high:g})"
        most = "" if fact.most is None else f"; at most {fact.most:g} allowed"
        print(f"{fact.name}: {fact.value:g}{f' {fact.unit}' if fact.unit else ''}{spread}{most}")
