"""All benchmarks by one command: every case, its ratio to what it is compared with, and the machine that it ran on.

python benchmarks/report.py [NAME...]            run the benchmarks (all, or bench_NAME.py) and print Markdown
python benchmarks/report.py --record [NAME...]   and keep each as docs/measured/NAME.json, and write docs/performance.md
python benchmarks/report.py --save FOLDER        keep them there instead, one file each
python benchmarks/report.py --load FOLDER        run nothing; the results are those kept there
python benchmarks/report.py --svg FOLDER         draw the ratios as well, NAME.svg each
python benchmarks/report.py NAME --with WORDS    hand words to the one benchmark, as `checkpoint --with 2048`

On a quiet machine: nothing else makes the spread mean what it says. Exit status 1 where a median is above its budget, 2
where a benchmark failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from performance_picture import draw
from performance_tables import is_over, render

__all__ = ["machine", "main"]

HERE = Path(__file__).resolve().parent
_OVER = 3  # exit status of a benchmark that was measured to its end, and says itself that a limit is exceeded
MEASURED = HERE.parent / "docs" / "measured"


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="benchmarks, such as launch; all of them where none is named")
    parser.add_argument("--record", action="store_true", help="keep the results for docs/performance.md, and write it")
    parser.add_argument("--save", type=Path, help="keep the results below this folder")
    parser.add_argument("--load", type=Path, help="a folder with results of an earlier run")
    parser.add_argument("--svg", type=Path, help="draw the ratios into this folder")
    parser.add_argument("--with", dest="words", default="", help="arguments of the one benchmark that is named")
    options = parser.parse_args()
    if options.words and len(options.names) != 1:
        parser.error("--with is for one benchmark")
    folder = MEASURED if options.record else options.save
    records, failed = [], []
    for name in _names(parser, options.names):
        if options.load:
            path = options.load / f"{name}.json"
            if path.exists():
                records.append(json.loads(path.read_text(encoding="utf-8")))
            continue
        record = _run(name, options.words)
        if record is None:
            failed.append(name)
            continue
        records.append(record)
        if folder:  # at once: a benchmark later may fail, or be interrupted
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for record in records:
        print(f"## {record['benchmark']}\n\n{render(record)}")
        if options.svg:
            options.svg.mkdir(parents=True, exist_ok=True)
            (options.svg / f"{record['benchmark']}.svg").write_text(draw(record), encoding="utf-8")
    if options.record:
        subprocess.run([sys.executable, str(HERE.parent / "tools" / "gen_performance.py")], check=True)
    for name in failed:
        print(f"{name} failed: its rows are missing", file=sys.stderr)
    rows = (row for record in records for table in record["tables"] for row in (*table["rows"], *table["facts"]))
    return 2 if failed else int(any(is_over(row) for row in rows))


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
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
    }


def _names(parser: argparse.ArgumentParser, names: list[str]) -> list[str]:
    """Return these benchmarks; all of them where there is none."""
    known = [path.stem.removeprefix("bench_") for path in sorted(HERE.glob("bench_*.py"))]
    for name in names:
        if name not in known:
            parser.error(f"there is no benchmark {name}; there are {', '.join(known)}")
    return names or known


def _run(name: str, words: str) -> dict[str, Any] | None:
    """Run one benchmark, and return its record; None where it failed."""
    print(f"bench_{name}.py ...", file=sys.stderr, flush=True)
    about = machine()
    before = os.getloadavg()[0]
    script = str(HERE / f"bench_{name}.py")
    done = subprocess.run([sys.executable, script, *shlex.split(words), "--json"], stdout=subprocess.PIPE, check=False)
    tables = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    if done.returncode not in (0, _OVER) or not tables:
        return None
    about["load"] = f"{before:.1f} before, {os.getloadavg()[0]:.1f} after"
    return {"benchmark": name, "with": words, "machine": about, "tables": tables}


if __name__ == "__main__":
    sys.exit(main())
