"""The page of a run: what the program chose cannot become a part of the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from sandlock_cli.run_page import page
from sandlock_cli.run_timeline import BUCKETS, seconds_of, timeline_of

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
    began = event("process", lane=1, pid=ATTACK, parent=ATTACK, what="began", program=ATTACK, age_s=0)
    changed = event("process", lane=1, pid=1, what="exec", program=ATTACK * 2)
    sample = event("sample", span_s=0.1, notifications={ATTACK: 3}, memory_bytes=7, unlisted=1)
    text = page(ATTACK, [start, launched, began, changed, denied, sample, event(ATTACK), event("failed", error=ATTACK)])
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


def at(seconds: float, kind: str, **more: Any) -> dict[str, Any]:
    return {**event(kind, **more), "time": f"2026-01-01T00:{seconds // 60:02.0f}:{seconds % 60:09.6f}Z"}


def test_what_is_sampled_is_shared_among_the_buckets_and_nothing_is_lost() -> None:
    samples = [
        at(10, "sample", span_s=10, notifications={"openat": 60, "bind": 1}, memory_bytes=5, unlisted=0),
        at(20, "sample", span_s=0.01, notifications={"openat": 7}, memory_bytes=9, unlisted=3),
    ]
    found = timeline_of([at(0, "start"), *samples, at(60, "end")])
    assert (found["seconds"], found["bucket_s"], found["unlisted"]) == (60, 1, 3)
    openat = found["notifications"]["openat"]
    assert list(found["notifications"]) == ["openat", "bind"]
    assert openat["times"] == 67
    assert openat["over_time"][:10] == [6] * 10
    assert sum(openat["over_time"]) == pytest.approx(67)
    assert len(openat["over_time"]) == len(found["memory_bytes"]) == BUCKETS
    assert (found["memory_bytes"][15], found["memory_bytes"][40]) == (5, 9), "what is not told again has not changed"


def test_a_process_has_a_lane_from_its_start_to_its_end() -> None:
    events = [
        at(1, "start"),
        at(2, "process", lane=1, pid=7, parent=3, what="began", program="/bin/a", age_s=0.5),
        at(3, "process", lane=1, pid=7, what="exec", program="/bin/b"),
        at(3, "process", lane=2, pid=8, parent=7, what="began", program="", age_s=9),
        at(4, "process", lane=1, pid=7, what="ended"),
    ]
    one, two = timeline_of(events, until=seconds_of(at(11, "now")))["processes"]
    assert (one["began_s"], one["ended_s"]) == (0.5, 3)
    assert one["programs"] == [{"at_s": 1, "program": "/bin/a"}, {"at_s": 2, "program": "/bin/b"}]
    assert (two["began_s"], two["ended_s"], two["programs"]) == (0, None, [])
    assert timeline_of(events, until=seconds_of(at(11, "now")))["seconds"] == 10
    assert timeline_of([*events, at(5, "end")], until=seconds_of(at(11, "now")))["seconds"] == 4
    assert ">8 </text>" in page("x", events)


def test_where_nobody_watched_the_page_says_so() -> None:
    events = [at(1, "start"), at(2, "launched", pid=7), at(3, "end")]
    found = timeline_of(events)
    assert (found["watched"], found["memory_bytes"], found["notifications"]) == (False, None, {})
    assert [process["pid"] for process in found["processes"]] == [7]
    text = page("x", events)
    assert "only the first process is known" in text
    assert "max_memory" in text


def test_what_is_drawn_is_bounded() -> None:
    lanes = [at(1, "process", lane=n, pid=n, parent=1, what="began", program="p", age_s=0) for n in range(5000)]
    samples = [
        at(1, "sample", span_s=9e9, notifications={f"call{n}": 1 for n in range(5000)}, memory_bytes=1, unlisted=77)
    ]
    text = page("x", [at(0, "start"), *lanes, *samples])
    assert text.count("<g><title>") == 200
    assert "And 77 more processes" in text
    assert len(text) < 2 << 20


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1, 1e300, "1", None])
def test_a_number_that_cannot_be_drawn_is_no_record(value: object) -> None:
    for wrong in (
        at(1, "sample", span_s=value, notifications={"a": 1}, memory_bytes=1, unlisted=0),
        at(1, "sample", span_s=1, notifications={"a": value}, memory_bytes=1, unlisted=0),
        at(1, "process", lane=value, pid=1, what="ended"),
    ):
        with pytest.raises(ValueError, match="no number"):
            timeline_of([at(0, "start"), wrong])


@pytest.mark.needs("landlock", level=2)
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
