"""Runs with a name: ps, inspect, logs, kill (NOT-30), as typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from attack_lab import alive_with
from command_lab import Command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("landlock", level=6)


@pytest.fixture
def sandlock(tmp_path: Path) -> Command:
    """The command with a runtime folder of its own."""
    return Command(tmp_path)


@pytest.fixture
def job(sandlock: Command, mark: str) -> Iterator[subprocess.Popen[str]]:
    """A run named `job`, with a daemon, that says when it is up."""
    script = f"setsid sleep 100 {mark} 2>/dev/null & setsid sh -c 'sleep 100; : {mark}' & echo up; wait; sleep 100"
    running = sandlock.start("run", "--name", "job", "-t", "100", "-e", script)
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    assert sandlock.listed("ps", "runs")
    yield running
    running.kill()
    running.communicate()


def test_a_named_run_is_listed_and_shown(sandlock: Command, job: subprocess.Popen[str]) -> None:
    (run,) = sandlock.told("ps")["runs"]
    assert (run["name"], run["host"], run["cwd"]) == ("job", job.pid, str(sandlock.work))
    assert sandlock("ps").stdout.startswith("job ")
    assert run["command"][:2] == ["/bin/sh", "-c"]
    shown = sandlock("inspect", "job").stdout
    assert f"process {run['pid']}" in shown
    assert "fs_access" in shown
    assert sandlock("inspect", str(run["pid"])).stdout == shown
    told = sandlock.told("inspect", "job")
    assert told["protections"]["fs_access"]["state"] == "active"
    assert run["pid"] in [process["pid"] for process in told["timeline"]["processes"]]
    assert told["timeline"]["processes"][0]["ended_s"] is None
    assert "<h2>Processes</h2>" in sandlock("inspect", "--html", "job").stdout


def test_the_policy_that_is_shown_is_a_profile(sandlock: Command, job: subprocess.Popen[str]) -> None:
    profile = sandlock.work / "p.toml"
    profile.write_text(sandlock("inspect", "--toml", "job").stdout)
    profile.chmod(0o600)
    told = sandlock.told("run", "--profile-file", "p.toml", "--explain")
    assert "timeout = 100" in told["profile"]


def test_a_kill_ends_everything_and_leaves_nothing(sandlock: Command, job: subprocess.Popen[str], mark: str) -> None:
    assert alive_with(mark)
    done = sandlock("kill", "job")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert job.wait(10) == 128 + signal.SIGKILL
    assert not alive_with(mark)
    assert sandlock("ps").stdout == ""
    again = sandlock("kill", "job")
    assert again.returncode == 1
    assert "no run named job is alive" in again.stderr


def test_runs_of_one_name_are_told_apart_by_pid(sandlock: Command, job: subprocess.Popen[str]) -> None:
    other = sandlock.start("run", "--name", "job", "-e", "echo up; sleep 100")
    try:
        assert other.stdout is not None
        other.stdout.readline()
        deadline = time.monotonic() + 10
        while len(sandlock.told("ps")["runs"]) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        runs = {run["host"]: run["pid"] for run in sandlock.told("ps")["runs"]}
        done = sandlock("kill", "job")
        assert done.returncode == 1
        assert all(str(pid) in done.stderr for pid in runs.values())
        assert sandlock("kill", str(runs[other.pid])).returncode == 0
        assert other.wait(10) == 137
        assert job.poll() is None
        assert sandlock("kill", "--all", "job").returncode == 0
        assert job.wait(10) == 137
    finally:
        other.kill()
        other.communicate()


def test_a_killed_command_leaves_a_stale_entry_that_is_swept(
    sandlock: Command, job: subprocess.Popen[str], mark: str
) -> None:
    job.send_signal(signal.SIGKILL)
    job.wait(10)
    deadline = time.monotonic() + 10
    while alive_with(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sandlock("ps").stdout == ""
    folder = sandlock.env["XDG_RUNTIME_DIR"] + "/sandlock"
    assert [name for name in os.listdir(folder) if name.endswith(".json")] == []


def test_from_inside_no_run_is_seen_or_ended(sandlock: Command, job: subprocess.Popen[str]) -> None:
    grants = [word for path in (*sandlock.env["PYTHONPATH"].split(":"), "/opt") if path for word in ("-r", f"-{path}")]
    inner = sandlock("run", *grants, "--env", "PYTHONPATH", "--env", "XDG_RUNTIME_DIR", "--", *sandlock.line("ps"))
    assert "job" not in inner.stdout
    # Even where the folder is granted for reading, no signal gets out.
    seen = [*grants, "-r", sandlock.env["XDG_RUNTIME_DIR"]]
    words = ["--env", "PYTHONPATH", "--env", "XDG_RUNTIME_DIR", "--", *sandlock.line("kill", "job")]
    done = sandlock("run", *seen, *words)
    assert done.returncode != 0
    assert job.poll() is None
    assert len(sandlock.told("ps")["runs"]) == 1, "and its entry stays"


def test_the_log_tells_what_was_denied_also_after_the_end(sandlock: Command) -> None:
    done = sandlock("run", "--name", "job", "-P", "1", "-e", "(echo x); exit 3")
    assert done.returncode != 0
    shown = sandlock("logs", "job").stdout.splitlines()
    assert [line.split()[1] for line in shown if " launched " not in line] == ["start", "denied", "end"]
    assert "max_processes" in shown[-2] + shown[1] + shown[2]
    lines = [json.loads(line) for line in sandlock("logs", "--json", "job").stdout.splitlines()]
    assert all(line["schema"] == 1 for line in lines)
    assert lines[-1]["exit_code"] == done.returncode
    assert sandlock("logs", "other").returncode == 1


def test_a_log_is_followed_until_the_end(sandlock: Command) -> None:
    running = sandlock.start("run", "--name", "job", "-e", "sleep 2; exit 5")
    assert sandlock.listed("ps", "runs")
    done = sandlock("logs", "--follow", "job")
    assert running.wait(10) == 5
    assert done.stdout.splitlines()[-1].split()[1:3] == ["end", "EXITED,"]
    running.communicate()


@pytest.mark.parametrize("verb", ["inspect", "logs", "kill"])
def test_what_is_no_run_is_told(sandlock: Command, verb: str) -> None:
    assert sandlock(verb).returncode == 2
    done = sandlock(verb, "x\x1b]0;y")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr[:-1].isprintable()


def test_a_run_without_a_name_leaves_no_trace(sandlock: Command) -> None:
    assert sandlock("run", "--", "true").returncode == 0
    assert os.listdir(sandlock.env["XDG_RUNTIME_DIR"]) == []
