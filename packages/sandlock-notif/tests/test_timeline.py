"""What a run does over time: each process has its lane, the rest is counted, and nothing of it decides anything."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from sandlock_notif import Processes, timeline
from sandlock_notif.timeline import Pace, Timeline

if TYPE_CHECKING:
    from collections.abc import Callable

Lines = list[tuple[str, Mapping[str, object]]]


class Run:
    """A timeline of children of this process."""

    def __init__(self, note: Callable[[str, Mapping[str, object]], None] | None = None) -> None:
        self.lines: Lines = []
        self.counts: dict[str, int] = {}
        self.used: int | None = None
        self.processes = Processes(asyncio.get_running_loop(), os.getpid())
        take = note if note is not None else lambda kind, facts: self.lines.append((kind, facts))
        self.timeline = Timeline(take, lambda: dict(self.counts), lambda: self.used)

    def begin(self, first: int) -> None:
        self.timeline.begin(asyncio.get_running_loop(), self.processes, first)

    def told(self, what: str) -> list[object]:
        return [facts["pid"] for kind, facts in self.lines if kind == "process" and facts["what"] == what]

    def samples(self) -> list[Mapping[str, object]]:
        return [facts for kind, facts in self.lines if kind == "sample"]

    def close(self) -> None:
        self.timeline.close()
        self.processes.close()


async def until(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come")


@contextmanager
def child(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a shell that goes on when its stdin is closed."""
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[bytes]) -> None:
    """Close its stdin, and wait."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


@pytest.mark.needs("pidfd", level=2)
def test_a_process_is_told_when_it_begins_executes_and_ends() -> None:
    async def main() -> None:
        run = Run()
        with child("read x; exec sleep 60") as first, child("cat; sleep 60") as second:
            run.begin(first.pid)
            assert run.told("began") == [first.pid]
            await until(lambda: second.pid in run.told("began"))
            assert first.stdin is not None
            first.stdin.close()
            await until(lambda: first.pid in run.told("exec"))
            programs = [str(facts["program"]) for kind, facts in run.lines if facts.get("what") == "exec"]
            assert any("sleep" in name or "coreutils" in name or "busybox" in name for name in programs)
            second.kill()
            await until(lambda: second.pid in run.told("ended"))
            assert first.pid not in run.told("ended")
        first.wait()
        run.close()
        assert first.pid in run.told("ended"), "the end that nobody was woken for yet is told too"
        assert len(run.told("began")) == len({facts["lane"] for kind, facts in run.lines if kind == "process"})

    asyncio.run(main())


@pytest.mark.needs("pidfd", level=2)
def test_what_was_answered_and_used_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "look", lambda *_: None)

    async def main() -> None:
        run = Run()
        with child("read x") as first:
            run.begin(first.pid)
            run.counts, run.used = {"openat": 3, "bind": 0}, 7
            await until(run.samples)
            run.counts = {"openat": 5, "bind": 1}
            await until(lambda: len(run.samples()) > 1)
            await asyncio.sleep(0.1)  # nothing happens, and nothing is told
            end(first)
        run.close()
        assert [facts["notifications"] for facts in run.samples()] == [{"openat": 3}, {"openat": 2, "bind": 1}]
        assert [facts["memory_bytes"] for facts in run.samples()] == [7, 7]

    asyncio.run(main())


@pytest.mark.needs("pidfd", level=2)
def test_beyond_the_lanes_processes_are_counted_and_execs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_LANES", 2)
    monkeypatch.setattr(timeline, "_MOST_EXECS", 0)
    monkeypatch.setattr(timeline, "look", lambda *_: None)

    async def main() -> None:
        run = Run()
        with child("exec cat") as first, child("read x") as second, child("read x") as third:
            run.begin(first.pid)
            for process in (second, third):
                run.processes.register(process.pid)
            await until(run.samples)
            assert run.told("began") == [first.pid, second.pid]
            assert run.samples()[-1]["unlisted"] == 1
            for process in (first, second, third):
                end(process)
        run.close()
        assert sorted(map(str, run.told("ended"))) == sorted([str(first.pid), str(second.pid)])
        assert run.told("exec") == []

    asyncio.run(main())


@pytest.mark.needs("pidfd", level=2)
def test_who_cannot_keep_a_record_keeps_nobody_from_being_registered() -> None:
    def fail(kind: str, facts: Mapping[str, object]) -> None:
        raise OSError("no room")

    async def main() -> None:
        run = Run(fail)
        with child("read x") as first:
            run.processes.on_start(lambda _: None)
            run.begin(first.pid)
            assert run.processes.register(first.pid).pid == first.pid
            end(first)
        run.processes.close()

    asyncio.run(main())


def test_samples_become_rarer_so_that_a_week_has_few() -> None:
    pace = Pace()
    elapsed, count = 0.0, 0
    while elapsed < 7 * 86400:
        elapsed += pace.step()
        count += 1
    assert 400 < count < 1000
