"""The page of the measurements says what the records say, and every record is on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import gen_performance
import pytest
from performance_picture import draw
from performance_tables import render, unmet

SVG = "{http://www.w3.org/2000/svg}"


def record(**changes: Any) -> dict[str, Any]:
    row = {
        "name": "a | b", "base": "bare <x>", "median_ms": 1.234, "ratio": 1.5, "low": 1.25, "high": 2.0, "budget": 1.2,
        "pairs": 9, "clock": "wall", **changes,
    }  # fmt: skip
    fact = {"name": "left", "value": 0, "unit": "", "low": None, "high": None, "most": 0}
    about = {"date": "2026-01-02", "processor": "p", "kernel": "6.1", "python": "3", "user": "root", "load": "0 before"}
    table = {"title": "Launch", "rows": [row], "facts": [fact]}
    return {"benchmark": "launch", "with": "", "machine": about, "tables": [table]}


def test_a_record_tells_day_kernel_command_ratio_spread_and_budget() -> None:
    text = render(record())
    assert "2026-01-02" in text
    assert "kernel 6.1" in text
    assert "`python benchmarks/report.py launch`" in text
    assert "| a \\| b | 1.23 | bare <x> | 1.50 | 1.25..2.00 | 9 | 1.20 **over** |" in text
    assert "| left | 0 |  | 0 |" in text
    assert "9, cpu |" in render(record(clock="cpu"))


def test_a_budget_that_is_missed_is_listed_and_one_that_is_met_is_not() -> None:
    assert unmet(record()) == ["Launch: a | b: 1.50 x bare <x>; budget 1.20"]
    assert unmet(record(budget=1.5)) == []
    assert unmet(record(budget=None)) == []


def test_the_prose_takes_the_tables_and_must_fit_them() -> None:
    page = gen_performance.page("before\n\n@record launch\n\n@picture launch\n\n@unmet\n", {"launch": record()})
    assert "generated" in page.partition("\n")[0].lower()
    assert "| Launch | ms |" in page
    assert "(measured/launch.svg)" in page
    assert "* Launch: a | b: 1.50" in page
    with pytest.raises(SystemExit, match="no record of launch"):
        gen_performance.page("nothing", {"launch": record()})
    with pytest.raises(SystemExit, match=r"has no soak\.json"):
        gen_performance.page("@record soak\n", {})


def test_a_picture_is_svg_with_a_bar_for_each_row_and_its_budget() -> None:
    root = ET.fromstring(draw(record(name="<&>")))  # noqa: S314  # of our own making
    group = root.find(f"{SVG}g")
    assert group is not None
    assert [child.tag.removeprefix(SVG) for child in group] == ["title", "text", "rect", "line", "text", "line"]
    over = group.find(f"{SVG}rect")
    assert over is not None
    assert over.get("fill") == "#b3261e"
    fine = ET.fromstring(draw(record(budget=None, ratio=0.9, low=0.5)))  # noqa: S314  # as above
    bar = fine.find(f"{SVG}g/{SVG}rect")
    assert bar is not None
    assert bar.get("fill") != "#b3261e"
    assert float(bar.get("width", "")) > 0


def test_what_is_committed_is_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "measured"
    folder.mkdir()
    (folder / "launch.json").write_text(json.dumps(record()))
    (folder / "performance.md.in").write_text("@record launch\n\n@picture launch\n")
    monkeypatch.setattr(gen_performance, "MEASURED", folder)
    monkeypatch.setattr(gen_performance, "TARGET", tmp_path / "performance.md")
    assert gen_performance.main(["--check"]) == 1
    assert gen_performance.main([]) == 0
    assert gen_performance.main(["--check"]) == 0
    (folder / "launch.json").write_text(json.dumps(record(ratio=1.6)))
    assert gen_performance.main(["--check"]) == 1
