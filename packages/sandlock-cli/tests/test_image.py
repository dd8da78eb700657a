"""`sandlock checkpoint` and `sandlock image`: a real process is saved, shown and verified, and runs on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

import sandlock_checkpoint
from sandlock_checkpoint import Checkpoint
from sandlock_cli import checkpoint_process


class Typed(Protocol):
    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process that counts into a file; no stream is a deleted file of the test runner, which an image cannot have."""
    out = tmp_path / "count"
    code = "import itertools, time\nfor n in itertools.count():\n print(n, flush=True); time.sleep(0.01)"
    with (
        out.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL
        ) as process,
    ):
        while not out.stat().st_size:
            time.sleep(0.01)
        yield process.pid, out
        process.kill()


def test_a_process_is_saved_and_runs_on(sandlock: Typed, counter: tuple[int, Path], tmp_path: Path) -> None:
    pid, out = counter
    done = sandlock("checkpoint", "--pid", str(pid), "--json", str(tmp_path / "image"))
    assert done.returncode == 0, done.stderr
    digest = json.loads(done.stdout)["digest"]
    before = out.stat().st_size
    time.sleep(0.2)
    assert out.stat().st_size > before
    shown = json.loads(sandlock("image", "show", "--json", str(tmp_path / "image")).stdout)
    assert (shown["digest"], shown["processes"][0]["pid"]) == (digest, pid)
    assert os.path.basename(sys.executable)[:6] in sandlock("image", "show", str(tmp_path / "image")).stdout
    assert "whole" in sandlock("image", "verify", str(tmp_path / "image")).stdout
    more = sandlock("checkpoint", f"--pid={pid}", "--parent", str(tmp_path / "image"), str(tmp_path / "next"))
    assert more.returncode == 0, more.stderr
    assert "needs image" in sandlock("image", "show", str(tmp_path / "next")).stdout


WRITES = """
import mmap, os, sys, time
memory = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:] = os.urandom(8 << 20)
number = 0
while True:
    number += 1
    memory[:8] = number.to_bytes(8, "little")
    print(number, flush=True)
    time.sleep(0.01)
"""


def test_a_process_is_watched_between_images_as_long_as_it_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "count"
    with (
        out.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-c", WRITES], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL
        ) as target,
    ):
        command = [sys.executable, "-m", "sandlock_cli", "checkpoint", "--pid", str(target.pid), "--track", "one"]
        try:
            while not out.stat().st_size:
                time.sleep(0.01)
            with subprocess.Popen(
                command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as watcher:
                assert watcher.stdin is not None
                assert watcher.stdout is not None
                assert watcher.stdout.readline() == "one\n"
                for name in ("two", "three"):
                    before = out.stat().st_size
                    while out.stat().st_size == before:
                        time.sleep(0.01)
                    watcher.stdin.write(f"{name}\n")
                    watcher.stdin.flush()
                    assert watcher.stdout.readline() == f"{name}\n"
                watcher.stdin.write("missing/four\n\n")
                _, said = watcher.communicate(timeout=60)
            assert watcher.returncode == 125
            assert "missing" in said
        finally:
            target.kill()
    metas = [json.loads((tmp_path / name / "meta.json").read_text()) for name in ("one", "two", "three")]
    assert [bool(meta["ancestors"]) for meta in metas] == [False, True, True]
    # Where the kernel cannot (before 6.7), it says so, and the images are the same.
    watched = "will be compared" not in said
    assert all((meta["unread_bytes"] > 7 << 20) == watched for meta in metas[1:])
    sizes = [sum(one.stat().st_blocks for one in (tmp_path / name).rglob("*.bin")) for name in ("one", "two", "three")]
    assert sizes[1] < sizes[0] // 2
    assert sizes[2] < sizes[0] // 2


def test_nobody_else_is_saved_who_has_the_number_of_a_watched_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SEC: the number goes to another one, of another user for root, as soon as the process is buried."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
    with subprocess.Popen(sleep, **quiet) as watched, subprocess.Popen(sleep, **quiet) as other:  # type: ignore[call-overload]
        asked: list[int] = []

        def capture(pid: int, **options: Any) -> Checkpoint:
            asked.append(pid)
            if len(asked) == 1:
                return sandlock_checkpoint.capture(pid, **options)
            watched.kill()  # just now, and somebody else has its number
            watched.wait()
            return sandlock_checkpoint.capture(other.pid, **options)

        monkeypatch.setattr(checkpoint_process, "capture", capture)
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{tmp_path}/two\n{tmp_path}/three\n"))
        try:
            status = checkpoint_process.save_process(
                watched.pid, f"{tmp_path}/one", sandlock_checkpoint.Leave.RUNNING, {"track": True}
            )
            assert (status, asked) == (125, [watched.pid] * 2)  # the third time nobody is stopped
            assert sorted(os.listdir(tmp_path)) == ["one"]
            assert capsys.readouterr().err.count("it has ended, and its number may be another's now") == 2
            assert "tracing stop" not in Path(f"/proc/{other.pid}/status").read_text()
        finally:
            watched.kill()
            other.kill()


def test_a_damaged_image_is_told_by_file(sandlock: Typed, counter: tuple[int, Path], tmp_path: Path) -> None:
    assert sandlock("checkpoint", "--pid", str(counter[0]), str(tmp_path / "image")).returncode == 0
    data = next((tmp_path / "image/process/memory").iterdir())
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    done = sandlock("image", "verify", str(tmp_path / "image"))
    assert (done.returncode, f"memory/{data.name}" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["image"], 2, "what is to be done"),
        (["image", "shwo", "x"], 2, "show"),
        (["image", "show"], 2, "needs the directory"),
        (["image", "show", "/nonexistent"], 1, "no such directory"),
        (["checkpoint", "dir"], 2, "--pid"),
        (["checkpoint", "--pid", "x", "dir"], 2, "--pid"),
        (["checkpoint", "--pid", "1"], 2, "one directory"),
        (["checkpoint", "--pid", "1", "--track", "--leave", "killed", "dir"], 2, "--track"),
        (["checkpoint", "--pid", "4194300", "--track", "/tmp/never"], 125, "4194300"),
        (["checkpoint", "--pid", "1", "--leave", "asleep", "dir"], 2, "running, stopped, killed"),
        (["checkpoint", "--pid", "4194300", "/tmp/never"], 125, "4194300"),
    ],
)
def test_what_cannot_be_done_is_told(sandlock: Typed, words: list[str], status: int, said: str) -> None:
    done = sandlock(*words)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
