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
    from collections.abc import Callable, Mapping

__all__ = ["Row", "compare", "report", "seconds"]


@dataclass(frozen=True, slots=True)
class Row:
    """One case against the base of its run.

    Attributes:
        name: what was measured.
        base: what it is compared with.
        median_ms: median of its own time.
        ratio: median of the ratios, pair by pair.
        low: 10th percentile of the ratios; high: 90th.
        budget: the ratio that the design allows, or None.

    """

    name: str
    base: str
    median_ms: float
    ratio: float
    low: float
    high: float
    budget: float | None


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
    """Measure `base` and every case (action, budget) in turn, `rounds` times after three that do not count."""
    name, action = base
    pairs: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
    for turn in range(rounds + 3):
        first = seconds(action)
        for case, (run, _) in cases.items():
            took = seconds(run)
            if turn >= 3:
                pairs[case].append((took, first))
    rows = []
    for case, (_, budget) in cases.items():
        ratios = sorted(took / first for took, first in pairs[case])
        median_ms = statistics.median(took for took, _ in pairs[case]) * 1e3
        tenth = len(ratios) // 10
        rows.append(Row(case, name, median_ms, statistics.median(ratios), ratios[tenth], ratios[-1 - tenth], budget))
    return rows


def report(title: str, rows: list[Row]) -> None:
    """Print a Markdown table, or JSON where `--json` was given."""
    if "--json" in sys.argv:
        print(json.dumps({"title": title, "kernel": platform.release(), "rows": [asdict(row) for row in rows]}))
        return
    print(f"\n{title} (kernel {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()})\n")
    print("| case | ms | x of | ratio | 10th..90th | budget |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        budget = f"{row.budget:.2f}" if row.budget is not None else ""
        spread = f"{row.low:.2f}..{row.high:.2f}"
        print(f"| {row.name} | {row.median_ms:.3f} | {row.base} | {row.ratio:.2f} | {spread} | {budget} |")
