"""`sandlock checkpoint NAME DIR` and `sandlock restore DIR`, as typed; who may ask a run's control socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_lab import PATHS, Command

from sandlock_testkit.features import level

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.needs("landlock", level=6),
    pytest.mark.needs("x86_64"),
]

COUNTER = """
import time
number = 0
while True:
    number += 1
    print(number, flush=True)
    time.sleep(0.05)
"""


@pytest.fixture
def sandlock(tmp_path: Path) -> Command:
    """The command with a runtime folder of its own."""
    return Command(tmp_path)


def counting(sandlock: Command, *options: str) -> subprocess.Popen[str]:
    running = sandlock.start("run", "--name", "counter", "-t", "100", *options, "--", "/usr/bin/python3", "-c", COUNTER)
    assert running.stdout is not None
    assert running.stdout.readline() == "1\n"
    assert sandlock.listed("ps", "runs")
    return running


@pytest.fixture
def counter(sandlock: Command) -> Iterator[subprocess.Popen[str]]:
    """A run named `counter`, which is up and listed."""
    running = counting(sandlock)
    yield running
    end(running)


@pytest.fixture(params=[(), ("--trackable",)], ids=["plain", "trackable"])
def watchable(sandlock: Command, request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], bool]]:
    """The same, and whether it can be watched."""
    running = counting(sandlock, *request.param)
    yield running, bool(level("write_notes")) and (bool(request.param) or not os.geteuid())
    end(running)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_run_is_saved_killed_and_goes_on_where_it_was(
    sandlock: Command, counter: subprocess.Popen[str], tmp_path: Path
) -> None:
    image = str(tmp_path / "image")
    told = sandlock.told("checkpoint", "--leave", "killed", "counter", image)
    assert set(told) == {"digest", "pid", "untracked"}
    rest, _ = counter.communicate(timeout=60)
    assert counter.returncode == 137
    last = int(rest.split()[-1])
    assert json.loads(sandlock("image", "show", "--json", image).stdout)["digest"] == told["digest"]
    for _ in range(2):
        restored = sandlock.start("restore", "--name", "again", "-t", "100", image)
        try:
            assert restored.stdout is not None
            assert [restored.stdout.readline() for _ in range(3)] == [f"{last + n}\n" for n in (1, 2, 3)]
            runs = sandlock.told("ps")["runs"]
            assert [run["name"] for run in runs] == ["again"]
        finally:
            end(restored)


def test_it_runs_on_and_what_is_wrong_is_told(
    sandlock: Command, counter: subprocess.Popen[str], tmp_path: Path
) -> None:
    image = str(tmp_path / "image")
    assert sandlock("checkpoint", "nobody", image).returncode == 1
    refused = sandlock("checkpoint", "counter", str(tmp_path / "missing" / "image"))
    assert (refused.returncode, "missing" in refused.stderr) == (125, True)
    assert sandlock("checkpoint", "counter", image).returncode == 0
    assert counter.stdout is not None
    before = int(counter.stdout.readline())
    assert int(counter.stdout.readline()) == before + 1
    wider = sandlock("restore", "-t", "100", "--fs-read", str(tmp_path), image)
    assert wider.returncode == 125
    assert "filesystem.read" in wider.stderr
    assert "--allow policy" in wider.stderr
    assert sandlock("restore", "--saved-policy", "--preset", "none", image).returncode == 2
    assert sandlock("restore", str(tmp_path / "missing")).returncode == 125
    timed = sandlock("restore", "--saved-policy", "--timeout", "1", image)
    assert timed.returncode == 124
    assert len(timed.stdout.split()) > 2


def test_a_run_that_is_watched_is_read_where_it_wrote(
    sandlock: Command, watchable: tuple[subprocess.Popen[str], bool], tmp_path: Path
) -> None:
    counter, watched = watchable
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    begun = sandlock("checkpoint", "--track", "--json", "counter", first)
    assert begun.returncode == 0, begun.stderr
    untracked = json.loads(begun.stdout)["untracked"]
    assert bool(untracked) == ("is not watched" in begun.stderr) == (not watched)
    assert sandlock("checkpoint", "--track", "--parent", first, "--leave", "killed", "counter", second).returncode == 0
    last = int(counter.communicate(timeout=60)[0].split()[-1])
    found = json.loads(sandlock("image", "show", "--json", second).stdout)
    assert (found["unread_bytes"] > 0) == (not untracked)
    assert ("not compared" in sandlock("image", "show", second).stdout) == (not untracked)
    restored = sandlock.start("restore", "--trackable", "--name", "counter", "-t", "100", second)
    try:
        assert restored.stdout is not None
        assert restored.stdout.readline() == f"{last + 1}\n"
        third = sandlock.told("checkpoint", "--track", "counter", str(tmp_path / "third"))
        assert bool(third["untracked"]) != bool(level("write_notes"))
    finally:
        end(restored)


ASK = """
import ctypes, json, sys
from sandlock_runtime.control import ask
from sandlock_runtime.registry import list_runs
run, = list_runs("counter")
if sys.argv[1] == "confined":
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS: what every sandbox begins with
wanted = {"folder": sys.argv[2], "leave": "running", "allow": [], "compression": "none", "parent": None, "track": False}
wanted |= json.loads(sys.argv[3])
print(json.dumps(ask(run.file, run.host, wanted)))
"""


def asked(sandlock: Command, how: str, image: Path, **changed: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", ASK, how, str(image), json.dumps(changed)],
        check=True, env={**sandlock.env, "PYTHONPATH": PATHS}, stdout=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.usefixtures("counter")
def test_who_is_confined_may_not_have_another_run_saved(sandlock: Command, tmp_path: Path) -> None:
    if "NoNewPrivs:\t1" in Path("/proc/self/status").read_text():
        pytest.skip("this test is confined itself")
    refused = asked(sandlock, "confined", tmp_path / "image")
    assert "confined" in refused["error"]
    assert not (tmp_path / "image").exists()
    assert "digest" in asked(sandlock, "free", tmp_path / "image")


@pytest.mark.usefixtures("counter")
def test_the_socket_is_the_owners_and_bad_questions_are_refused(sandlock: Command, tmp_path: Path) -> None:
    (control,) = Path(sandlock.env["XDG_RUNTIME_DIR"], "sandlock").glob("*.sock")
    assert control.stat().st_mode & 0o777 == 0o600
    assert control.parent.stat().st_mode & 0o777 == 0o700
    for wrong in ({"folder": 1}, {"allow": None}, {"leave": "asleep"}, {"more": 1}, {"compression": "zip"}):
        told = asked(sandlock, "free", tmp_path / "image", **wrong)
        assert told["error"], wrong
    assert "digest" in asked(sandlock, "free", tmp_path / "image")
