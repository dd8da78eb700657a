"""The page of a run: what the program chose cannot become a part of the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from sandlock_cli.run_page import page

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Typed

ATTACK = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\x1b]0;t\x07\u202e\"'&"


class Tags(HTMLParser):
    """Collects the elements of a page, and the attributes that could load or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)


def event(kind: str, **more: Any) -> dict[str, Any]:
    return {"schema": 1, "time": "2026-01-01T00:00:00.000001Z", "event": kind, **more}


def test_what_the_program_chose_is_text_and_nothing_else() -> None:
    denied = event("denied", syscall=ATTACK, error=ATTACK, reason=ATTACK, detail={"path": ATTACK})
    start = event("start", command=["x", ATTACK], cwd=ATTACK, policy=ATTACK)
    launched = event("launched", pid=1, protections={ATTACK: {"state": ATTACK, "layer": ATTACK}})
    text = page(ATTACK, [start, launched, denied, event(ATTACK), event("failed", error=ATTACK)])
    found = Tags(text)
    assert not found.tags & {"script", "img", "iframe", "link", "object", "form", "a"}
    assert not {name for name in found.attributes if name.startswith("on") or name in ("src", "href")}
    assert "alert(1)" in text, "it is there, as text"
    assert "\x1b" not in text
    assert "default-src 'none'" in text


def test_equal_denials_are_one_row_with_a_count() -> None:
    denied = event("denied", syscall="connect", error="ECONNREFUSED", reason="r", detail={"endpoint": "tcp://a:1"})
    text = page("x", [denied] * 7)
    assert "<td>tcp://a:1</td><td>r</td><td>7</td>" in text
    assert page("x", [])


@pytest.mark.needs("landlock", level=6)
def test_a_recorded_run_becomes_a_page(sandlock: Typed, tmp_path: Path) -> None:
    record = tmp_path / "audit.jsonl"
    done = sandlock("run", "--audit", str(record), "-P", "1", "--", "sh", "-c", "(echo x); exit 3")
    assert done.returncode != 0
    shown = sandlock("logs", "--html", "--file", str(record))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert all(word in shown.stdout for word in ("max_processes", "fs_access", "<svg", "exit code"))
    assert "denied" in sandlock("logs", "--file", str(record)).stdout


@pytest.mark.parametrize("content", ["", "{}\n", "no json\n", "[]\n", '{"schema": 1, "event": "end"}\n'])
def test_what_is_no_record_is_told(sandlock: Typed, tmp_path: Path, content: str) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    done = sandlock("logs", "--file", str(file))
    assert (done.returncode, "Traceback" in done.stderr) == (int(bool(content)), False)
    assert sandlock("logs", "--file", str(tmp_path / "none")).returncode != 0
    assert sandlock("logs", "--html", "--follow", "x").returncode == 2
    assert json.dumps(content)
