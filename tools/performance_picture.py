"""The record of a benchmark as a picture: its ratios on a logarithmic scale, with their spread and their budgets."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from performance_tables import is_over

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["draw"]

_BAR, _LEFT, _RIGHT, _ROW = 380, 400, 90, 20  # pixels: the longest bar, the names and figures beside it, a line
_LABEL = 62  # characters; a longer name is cut
_FINE, _OVER, _BUDGET = "#3b6ea5", "#b3261e", "#1a7f37"


def draw(record: dict[str, Any]) -> str:
    """Return the SVG; a record that compares nothing has a picture of its title alone."""
    rows = [row for table in record["tables"] for row in table["rows"]]
    ends = [value for row in rows for value in (row["low"], row["high"], row["budget"] or 1.0)]
    low, high = math.log(min([0.9, *ends])), math.log(max([2.0, *ends]))

    def at(ratio: float) -> float:
        return _LEFT + _BAR * (math.log(max(ratio, 1e-6)) - low) / (high - low)

    parts, y = [], 2 * _ROW
    for table in record["tables"]:
        if not table["rows"]:
            continue
        parts.append(f'<text x="8" y="{y + 15}" font-weight="bold">{escape(table["title"])}</text>')
        y += _ROW
        for row in table["rows"]:
            parts.append(_line(row, y, at))
            y += _ROW
    ticks = "".join(_tick(at(ratio), y, f"{ratio:g}") for ratio in _scale(math.exp(low), math.exp(high)))
    about = record["machine"]
    caption = f"multiples of the base; {about['date']}, kernel {about['kernel']}; green line: budget, grey: spread"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _BAR + _RIGHT} {y + 2 * _ROW}" '
        f'width="{_LEFT + _BAR + _RIGHT}" height="{y + 2 * _ROW}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="8" y="20" fill="#555">{escape(caption)}</text>{ticks}{"".join(parts)}</svg>\n'
    )


def _line(row: dict[str, Any], y: int, at: Callable[[float], float]) -> str:
    name = f"{row['name']}{' (cpu)' if row['clock'] == 'cpu' else ''}"
    name = name if len(name) <= _LABEL else name[: _LABEL - 1] + "\u2026"
    middle = y + _ROW / 2
    left, right = sorted((at(1.0), at(row["ratio"])))
    told = f"{row['name']}: {row['ratio']:.2f} x {row['base']} ({row['low']:.2f}..{row['high']:.2f})"
    drawn = (
        f"<g><title>{escape(told)}</title>"
        f'<text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{left:.1f}" y="{y + 4}" width="{max(right - left, 1):.1f}" height="{_ROW - 8}" '
        f'fill="{_OVER if is_over(row) else _FINE}"/>'
        f'<line x1="{at(row["low"]):.1f}" x2="{at(row["high"]):.1f}" y1="{middle}" y2="{middle}" '
        f'stroke="#999" stroke-width="2"/>'
        f'<text x="{max(at(row["high"]), right) + 6:.1f}" y="{middle + 4}">{row["ratio"]:.2f}</text>'
    )
    if row["budget"] is not None:
        x = f"{at(row['budget']):.1f}"
        drawn += f'<line x1="{x}" x2="{x}" y1="{y + 1}" y2="{y + _ROW - 1}" stroke="{_BUDGET}" stroke-width="2"/>'
    return drawn + "</g>"


def _tick(x: float, y: int, text: str) -> str:
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{1.5 * _ROW}" y2="{y}" stroke="{"#888" if text == "1" else "#e4e4e4"}"/>'
        f'<text x="{x:.1f}" y="{y + 15}" text-anchor="middle" fill="#555">{text}</text>'
    )


def _scale(low: float, high: float) -> list[float]:
    """Return the round ratios between two, few enough to be told apart."""
    found = [digit * 10.0**power for power in range(-3, 5) for digit in (1, 2, 5)]
    inside = [ratio for ratio in found if low <= ratio <= high]
    return inside if len(inside) <= 8 else [ratio for ratio in inside if math.log10(ratio).is_integer()]
