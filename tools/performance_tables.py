"""The record of a benchmark as Markdown: where and how it was measured, then its tables."""

from __future__ import annotations

from typing import Any

__all__ = ["command_of", "is_over", "render", "unmet"]


def command_of(record: dict[str, Any]) -> str:
    """Return the command that measures it again."""
    words = f" --with '{record['with']}'" if record["with"] else ""
    return f"python benchmarks/report.py {record['benchmark']}{words}"


def render(record: dict[str, Any]) -> str:
    """Return the machine, the command and every table."""
    about = record["machine"]
    where = f"kernel {about['kernel']}, {about['processor']}, Python {about['python']}"
    parts = [f"{about['date']}, {where}, {about['user']}; load {about['load']}. Again: `{command_of(record)}`\n"]
    for table in record["tables"]:
        if table["rows"]:
            head = f"| {_cell(table['title'])} | ms | multiple of | ratio | spread | pairs | budget |"
            lines = [head, "|---|---|---|---|---|---|---|", *map(_row, table["rows"])]
            parts.append("\n".join(lines) + "\n")
        if table["facts"]:
            head = f"| {_cell(table['title'])} | figure | spread | at most |"
            parts.append("\n".join([head, "|---|---|---|---|", *map(_fact, table["facts"])]) + "\n")
    return "\n".join(parts)


def is_over(figure: dict[str, Any]) -> bool:
    """Tell whether a row or a fact is above what the design allows."""
    if "ratio" in figure:
        return figure["budget"] is not None and figure["ratio"] > figure["budget"]
    return figure["most"] is not None and figure["value"] > figure["most"]


def unmet(record: dict[str, Any]) -> list[str]:
    """Return a line for each budget that the record does not meet."""
    return [
        f"{table['title']}: {line}"
        for table in record["tables"]
        for line in (*map(_missed, filter(is_over, table["rows"])), *map(_exceeded, filter(is_over, table["facts"])))
    ]


def _missed(row: dict[str, Any]) -> str:
    clock = " (cpu time)" if row["clock"] == "cpu" else ""
    return f"{row['name']}: {row['ratio']:.2f} x {row['base']}{clock}; budget {row['budget']:.2f}"


def _exceeded(fact: dict[str, Any]) -> str:
    return f"{fact['name']}: {_figure(fact)}; at most {fact['most']:g}"


def _row(row: dict[str, Any]) -> str:
    budget = "" if row["budget"] is None else f"{row['budget']:.2f}{' **over**' if is_over(row) else ''}"
    pairs = f"{row['pairs']}{', cpu' if row['clock'] == 'cpu' else ''}"
    cells = (
        row["name"], _milliseconds(row["median_ms"]), row["base"], f"{row['ratio']:.2f}",
        f"{row['low']:.2f}..{row['high']:.2f}", pairs, budget,
    )  # fmt: skip
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _fact(fact: dict[str, Any]) -> str:
    spread = "" if fact["low"] is None else f"{fact['low']:g}..{fact['high']:g}"
    most = "" if fact["most"] is None else f"{fact['most']:g}{' **over**' if is_over(fact) else ''}"
    return "| " + " | ".join(_cell(cell) for cell in (fact["name"], _figure(fact), spread, most)) + " |"


def _figure(fact: dict[str, Any]) -> str:
    return f"{fact['value']:,.10g} {fact['unit']}".rstrip()


def _milliseconds(value: float) -> str:
    """Return three digits that say something, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    digits = 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.01 else 6
    return f"{value:.{digits}f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
