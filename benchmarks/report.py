"""All benchmarks in one table: every case, its ratio to what it is compared with, and the machine that it ran on.

python benchmarks/report.py [NAME...]            run the benchmarks (all, or bench_NAME.py) and print Markdown
python benchmarks/report.py --save FILE          and keep the results, one JSON object in a line
python benchmarks/report.py --load FILE          run nothing; the results are those in FILE
python benchmarks/report.py --svg FILE           draw the ratios as well

On a quiet machine: nothing else makes the spread mean what it says. Exit status 1 where a median is above its budget or
a benchmark failed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["draw", "machine", "main", "render"]

HERE = Path(__file__).resolve().parent
_BAR, _LEFT, _ROW = 360, 430, 20  # pixels: the longest bar, the names beside it, a line


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="benchmarks, such as launch; all of them where none is named")
    parser.add_argument("--save", type=Path, help="keep the results here")
    parser.add_argument("--load", type=Path, help="results of an earlier run")
    parser.add_argument("--svg", type=Path, help="draw the ratios here")
    options = parser.parse_args()
    failed: list[str] = []
    if options.load:
        lines = options.load.read_text(encoding="utf-8").splitlines()
        about, *tables = [json.loads(line) for line in lines]
    else:
        about, tables = machine(), []
        for script in _scripts(parser, options.names):
            found = _run(script)
            if found is None:
                failed.append(script.name)
            tables += found or []
    if options.save:
        options.save.write_text("".join(json.dumps(item) + "\n" for item in (about, *tables)), encoding="utf-8")
    print(render(about, tables))
    if options.svg:
        options.svg.write_text(draw(about, tables), encoding="utf-8")
    for name in failed:
        print(f"{name} failed: its rows are missing", file=sys.stderr)
    return 1 if failed or any(_over(row) for table in tables for row in table["rows"]) else 0


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    model = platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{model}, {os.cpu_count()} of them",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f} when it began",
    }


def render(about: dict[str, str], tables: list[dict[str, Any]]) -> str:
    """Return the Markdown: the machine, then every row."""
    lines = ["; ".join(f"{name}: {value}" for name, value in about.items()), ""]
    lines += ["| what | case | ms | x of | ratio | 10th..90th | budget |", "|---|---|---|---|---|---|---|"]
    for table in tables:
        for row in table["rows"]:
            budget = "" if row["budget"] is None else f"{row['budget']:.2f}{' **over**' if _over(row) else ''}"
            lines.append(
                f"| {table['title']} | {row['name']} | {row['median_ms']:.3f} | {row['base']} | {row['ratio']:.2f} "
                f"| {row['low']:.2f}..{row['high']:.2f} | {budget} |"
            )
    return "\n".join(lines)


def draw(about: dict[str, str], tables: list[dict[str, Any]]) -> str:
    """Return an SVG of the ratios on a logarithmic scale, with their spread and their budgets."""
    rows = [(table["title"], row) for table in tables for row in table["rows"]]
    widest = max([row["high"] for _, row in rows], default=2.0)
    least = min([row["low"] for _, row in rows], default=1.0)
    low, high = math.log(min(1.0, least)), math.log(max(2.0, widest))

    def at(ratio: float) -> float:
        return _LEFT + _BAR * (math.log(max(ratio, 1e-6)) - low) / (high - low)

    parts, y = [], 2 * _ROW
    for title, row in rows:
        middle = y + _ROW / 2
        colour = "#b3261e" if _over(row) else "#3b6ea5"
        left, right = sorted((at(1.0), at(row["ratio"])))
        parts.append(
            f'<text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(title)}: {escape(row["name"])}</text>'
            f'<rect x="{left:.1f}" y="{y + 4}" width="{max(right - left, 1):.1f}" height="{_ROW - 8}" fill="{colour}"/>'
            f'<line x1="{at(row["low"]):.1f}" x2="{at(row["high"]):.1f}" y1="{middle}" y2="{middle}" stroke="#222"/>'
            f'<text x="{at(row["high"]) + 6:.1f}" y="{middle + 4}">{row["ratio"]:.2f}</text>'
        )
        if row["budget"] is not None:
            where = f"{at(row['budget']):.1f}"
            parts.append(f'<line x1="{where}" x2="{where}" y1="{y + 1}" y2="{y + _ROW - 1}" stroke="#1a7f37"/>')
        y += _ROW
    caption = escape("; ".join(f"{name}: {value}" for name, value in about.items()))
    one = f"{at(1.0):.1f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _BAR + 80}" height="{y + _ROW}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="8" y="16">{caption}</text>'
        f'<line x1="{one}" x2="{one}" y1="{1.5 * _ROW}" y2="{y}" stroke="#999" stroke-dasharray="3"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _scripts(parser: argparse.ArgumentParser, names: list[str]) -> list[Path]:
    """Return the benchmarks with these names; all that report through `measure` where there is none."""
    known = {
        path.stem.removeprefix("bench_"): path
        for path in sorted(HERE.glob("bench_*.py"))
        if "measure import" in path.read_text(encoding="utf-8")
    }
    for name in names:
        if name not in known:
            parser.error(f"there is no benchmark {name}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(known.values())


def _run(script: Path) -> list[dict[str, Any]] | None:
    """Run one benchmark, and return its tables; None where it failed."""
    print(f"{script.name} ...", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, str(script), "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        return None
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]


def _over(row: dict[str, Any]) -> bool:
    return row["budget"] is not None and row["ratio"] > row["budget"]


if __name__ == "__main__":
    sys.exit(main())
