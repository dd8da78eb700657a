"""`sandlock run --audit FILE`, as typed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from command_lab import Command

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("landlock", level=1)


@pytest.fixture
def sandlock(tmp_path: Path) -> Command:
    """The command in an empty folder."""
    return Command(tmp_path)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Where the audit goes."""
    return tmp_path / "audit.jsonl"


def lines(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text(encoding="ascii").splitlines()]


def test_every_line_is_an_event_from_the_start_to_the_end(sandlock: Command, record: Path) -> None:
    done = sandlock("run", "--audit", str(record), "-P", "1", "-e", "(echo x); exit 3")
    told = lines(record)
    over_time = ("launched", "process", "sample")
    assert [line["event"] for line in told if line["event"] not in over_time] == ["start", "denied", "end"]
    assert record.stat().st_mode & 0o777 == 0o600
    assert all(line["schema"] == 1 and line["time"].endswith("Z") for line in told)
    denied = next(line for line in told if line["event"] == "denied")
    assert (denied["error"], denied["syscall"]) == ("EAGAIN", denied["syscall"])
    assert "max_processes" in denied["reason"]
    assert told[-1]["exit_code"] == done.returncode
    launched = next(line for line in told if line["event"] == "launched")
    assert launched["protections"]["fs_access"]["state"] == "active"


FORKS = """
import os
for _ in range(30):
    if not os.fork():
        os._exit(0)
    os.wait()
"""


@pytest.mark.needs("seccomp", level=2)
def test_a_process_that_lives_for_a_moment_has_a_lane(sandlock: Command, record: Path) -> None:
    # A memory limit asks about no fork, and these ask nothing: only that they end is seen.
    command = ("/usr/bin/python3", "-c", FORKS)
    assert sandlock("run", "--audit", str(record), "-m", "512M", "--", *command).returncode == 0
    told = [line for line in lines(record) if line["event"] == "process"]
    assert [sum(line["what"] == what for line in told) for what in ("began", "ended")] == [31, 31]
    assert {line["program"] for line in told if line["what"] == "began" and line["lane"] > 1} == {
        os.path.realpath("/usr/bin/python3")
    }


@pytest.mark.needs("seccomp", level=2)
def test_a_lane_tells_the_last_program_of_a_short_process(sandlock: Command, record: Path) -> None:
    sandlock("run", "--audit", str(record), "-P", "9", "-e", "/usr/bin/env true; /usr/bin/env true; :")
    told = [line for line in lines(record) if line["event"] == "process" and line["lane"] > 1]
    last = {line["lane"]: line["program"] for line in told if line["what"] != "ended"}
    assert [os.path.basename(program) for program in last.values()] == ["true", "true"]


def test_a_run_that_the_kernel_confines_alone_has_start_and_end(sandlock: Command, record: Path) -> None:
    sandlock("run", "--audit", str(record), "--", "true")
    sandlock("run", "--audit", str(record), "--json", "--name", "job", "--", "true")
    assert [line["event"] for line in lines(record)] == ["start", "launched", "end"] * 2


def test_a_run_that_fails_to_start_is_recorded(sandlock: Command, record: Path) -> None:
    assert sandlock("run", "--audit", str(record), "--", "no-such-program").returncode == 127
    told = lines(record)
    assert [line["event"] for line in told] == ["start", "failed"]
    assert "no-such-program" in told[-1]["error"]


def test_secrets_are_masked_and_bytes_are_kept(sandlock: Command, record: Path) -> None:
    words = ["--password", "hunter2", "https://me:pw@host/", os.fsdecode(b"a\xff")]
    sandlock("run", "--audit", str(record), "--env", "API_TOKEN=t0ken-1", "--", "true", *words, "t0ken-1")
    text = record.read_text()
    assert not any(secret in text for secret in ("hunter2", "me:pw", "t0ken-1"))
    command = lines(record)[0]["command"]
    assert os.fsencode(command[-2]) == b"a\xff"
    assert command[1:4] == ["--password", "***", "https://***@host/"]


@pytest.mark.parametrize("grant", [["-w", "."], ["-w", ".."], ["--preset", "build"]])
def test_a_program_cannot_be_given_its_own_record(sandlock: Command, grant: list[str]) -> None:
    done = sandlock("run", *grant, "--audit", "record", "-e", "rm -f record; echo forged > record")
    assert done.returncode == 125
    assert "its own record" in done.stderr
    assert list(sandlock.work.iterdir()) == []


def test_the_record_is_out_of_reach_of_the_program(sandlock: Command) -> None:
    script = "echo forged >> record; rm -f record; ls /proc/self/fd 2>/dev/null | wc -l"
    done = sandlock("run", "--audit", "record", "-q", "-e", script)
    assert done.stderr.count("record") >= 1, "both are refused"
    assert [line["event"] for line in lines(sandlock.work / "record")] == ["start", "launched", "end"]


@pytest.mark.parametrize("path", ["/nonexistent/x", "/dev/tty", "."])
def test_a_file_that_cannot_be_used_stops_the_run_before_it_starts(sandlock: Command, path: str) -> None:
    done = sandlock("run", "--audit", path, "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert "audit" in done.stderr


def test_what_the_run_did_over_time_is_in_the_record_and_on_the_page(sandlock: Command, record: Path) -> None:
    shutil.copy("/usr/bin/sleep", sandlock.work / "<b>&")
    python = "import os; block = bytearray(40 << 20); os.spawnl(os.P_WAIT, './<b>&', 'sleep', '0.5')"
    done = sandlock("run", "--audit", str(record), "-P", "9", "-m", "400M", "--", "python3", "-c", python)
    assert done.returncode == 0, done.stderr
    told = lines(record)
    began = [line for line in told if line.get("what") == "began"]
    launched = next(line for line in told if line["event"] == "launched")
    first = next(line["lane"] for line in began if line["pid"] == launched["pid"])
    assert any(line["parent"] == launched["pid"] for line in began), "the process that it started"
    assert {line["lane"] for line in began} == {line["lane"] for line in told if line.get("what") == "ended"}
    assert [line for line in told if line.get("what") == "exec" and line["lane"] == first], "its own program"
    samples = [line for line in told if line["event"] == "sample"]
    assert max(line["memory_bytes"] for line in samples) > 40 << 20
    assert sum(sum(line["notifications"].values()) for line in samples) == told[-1]["usage"]["notifications"]
    text = sandlock("logs", "--html", "--file", str(record)).stdout
    assert "python3" in text
    assert "MiB were seen" in text
    assert "&lt;b&gt;&amp;</text>" in text, "what the program named its program is text"
    assert "<b>" not in text
    assert "sample" not in sandlock("logs", "--file", str(record)).stdout, "for pictures, not for reading"


def test_where_nobody_asks_nothing_is_told_over_time(sandlock: Command) -> None:
    code = (
        "from sandlock import Sandbox, preset; told = []; policy = preset('default').replace(max_processes=1); "
        "Sandbox(policy, audit=told.append).run(['sh', '-c', '(echo x) || exit 3']); "
        "print({event.kind for event in told})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=sandlock.work, capture_output=True, text=True, check=True)
    assert done.stdout == "{'denied'}\n"
