"""Runs with a name: listed while they live, ended without ever hitting a stranger, private to their user (NOT-30)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandlock_policy import preset
from sandlock_runtime import NotRunningError, Process, Sandbox, SandboxError
from sandlock_runtime.registry import ended_logs, folders, kill_run, list_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock_testkit import Outsider

pytestmark = pytest.mark.needs("landlock", level=6)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the entries, in a runtime folder of this test's own."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return runtime / "sandlock"


def start(name: str = "job", script: str = "sleep 100", **fields: Any) -> Process:
    return Sandbox(preset("default"), name=name, **fields).popen(["sh", "-c", script])


@pytest.fixture
def job(place: Path) -> Iterator[Process]:
    with start() as process:
        yield process


def entry_of(place: Path) -> tuple[Path, dict[str, Any]]:
    (file,) = place.glob("*.json")
    return file, json.loads(file.read_text())


def test_a_named_run_is_listed_until_it_ends_and_others_are_not(place: Path) -> None:
    with start() as process, Sandbox(preset("default")).popen(["sleep", "100"]):
        (run,) = list_runs()
        assert (run.name, run.pid, run.host) == ("job", process.pid, os.getpid())
        assert run.command == ("sh", "-c", "sleep 100")
        assert "name" not in run.protections
        assert run.protections["fs_access"] == ("active", "landlock")
        assert list_runs("job") == list_runs(str(process.pid)) == (run,)
        assert list_runs("other") == ()
        assert place.stat().st_mode & 0o777 == 0o700
        assert all(file.stat().st_mode & 0o777 == 0o600 for file in place.iterdir())
    assert list_runs() == ()
    assert list(place.glob("*.json")) == []


def test_the_whole_tree_is_killed_daemons_included(place: Path) -> None:
    mark = f"sleep 87654{os.getpid()}"  # whoever runs these tests beside us has another
    with start(script=f"setsid {mark} & {mark} & wait") as process:
        time.sleep(0.2)
        kill_run(list_runs("job")[0])
        result = process.wait(10)
    assert (result.reason, result.signal) == ("SIGNALED", 9)
    ends = subprocess.run(["pgrep", "-f", mark], capture_output=True, check=False)
    assert ends.stdout == b""


def test_a_stopped_run_and_a_stopped_guard_are_killed_too(job: Process) -> None:
    (run,) = list_runs()
    for pid in (run.pid, run.guard):
        os.kill(pid, signal.SIGSTOP)
    kill_run(run)
    assert job.wait(10).signal == signal.SIGKILL


def test_a_run_with_processes_of_its_own_namespace_is_killed(place: Path) -> None:
    with start(fs_readable=[*preset("default").fs_readable, "/proc"]) as process:
        kill_run(list_runs("job")[0])
        assert process.wait(10).signal == signal.SIGKILL


@pytest.mark.parametrize("field", ["pid_start", "guard_start"])
def test_a_number_that_belongs_to_a_later_process_is_never_signalled(job: Process, place: Path, field: str) -> None:
    (run,) = list_runs()
    changed = run.__replace__(**{field: getattr(run, field) - 1})  # type: ignore[attr-defined]  # as dataclasses have
    with pytest.raises(NotRunningError):
        kill_run(changed)
    assert job.poll() is None
    kill_run(run)
    assert job.wait(10).signal == signal.SIGKILL, "the positive control"


def test_a_forged_entry_cannot_name_a_process_that_is_no_sandbox(job: Process, place: Path, outsider: Outsider) -> None:
    file, entry = entry_of(place)
    pid = os.getpid()
    start_of = {number: int(Path(f"/proc/{number}/stat").read_text().split()[21]) for number in (outsider.pid, pid)}
    forged = {"name": "forged", "pid": outsider.pid, "pid_start": start_of[outsider.pid]}
    forged |= {"guard": pid, "guard_start": start_of[pid]}
    (place / "forged.0.json").write_text(json.dumps({**entry, **forged}))
    (run,) = list_runs("forged")
    with pytest.raises(SandboxError, match="not the first one of a sandbox"):
        kill_run(run)
    assert outsider.alive()
    # Nor a confined process below another parent: its real guard stands between them, and is no init.
    (place / "forged.0.json").write_text(json.dumps({**entry, **forged, "pid": entry["pid"],
                                                     "pid_start": entry["pid_start"]}))  # fmt: skip
    (run,) = list_runs("forged")
    with pytest.raises(SandboxError, match="not the first one of a sandbox"):
        kill_run(run)
    assert job.poll() is None
    assert file.exists()


def test_what_a_killed_host_left_is_swept(place: Path) -> None:
    code = (
        "import os, signal, sys, time; from sandlock_runtime import Sandbox; from sandlock_policy import preset\n"
        "Sandbox(preset('default'), name='left').popen(['sleep', '100']); print('up', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "up\n", done.stderr
    deadline = time.monotonic() + 10
    while list_runs() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list_runs() == ()
    assert list(place.glob("*.json")) == []


def test_entries_of_another_boot_are_swept_and_of_another_namespace_left_alone(job: Process, place: Path) -> None:
    file, entry = entry_of(place)
    (place / "boot.0.json").write_text(json.dumps({**entry, "boot": "another"}))
    (place / "space.0.json").write_text(json.dumps({**entry, "pid_namespace": 1}))
    assert [run.file for run in list_runs()] == [str(file)]
    assert {path.name for path in place.glob("*.json")} == {file.name, "space.0.json"}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "[" * 100_000, '{"schema": 1}', '{"schema": 2, "name": "x"}', "\x00\xff" * 50, "1" * 5000],
)
def test_a_file_that_is_no_entry_is_passed_over(job: Process, place: Path, text: str) -> None:
    (place / "bad.0.json").write_text(text, encoding="latin-1")
    assert [run.pid for run in list_runs()] == [job.pid]


@pytest.mark.parametrize("field", ["pid", "guard", "pid_start", "command", "name", "protections", "log", "started_s"])
@pytest.mark.parametrize("value", [None, -1, "x", 2**70, float("nan"), [1], {}])
def test_an_entry_with_a_wrong_value_does_no_harm(job: Process, place: Path, field: str, value: Any) -> None:
    file, entry = entry_of(place)
    file.write_text(json.dumps({**entry, field: value}))
    for run in list_runs():
        if run.pid != job.pid:
            with pytest.raises(SandboxError):
                kill_run(run)
    assert job.poll() is None


def test_a_folder_that_is_not_private_is_neither_read_nor_written(place: Path, tmp_path: Path) -> None:
    place.mkdir()
    place.chmod(0o755)
    with start():
        (run,) = list_runs()
        assert run.file.startswith(str(tmp_path / "state"))
        assert list(place.iterdir()) == []


def test_a_run_that_could_write_the_folder_is_listed_elsewhere(place: Path, tmp_path: Path) -> None:
    with start(fs_writable=[str(place.parent), "-/dev/null"]):
        (run,) = list_runs()
        assert run.file.startswith(str(tmp_path / "state"))


def test_without_any_folder_it_runs_unlisted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    monkeypatch.setattr("sandlock_runtime.registration.folders", lambda: ("/proc/none/run",))
    assert all(isinstance(folder, str) for folder in folders())
    assert Sandbox(preset("default"), name="job").run(["uname", "-n"]).stdout == b"job\n"


def test_a_program_inside_sees_no_entry_and_kills_no_run(job: Process, place: Path) -> None:
    (run,) = list_runs()
    script = f"ls {place}; cat {place}/*; kill -9 {run.pid} {run.guard} {run.host}"
    result = Sandbox(preset("default"), name="inner").run(["sh", "-c", script])
    assert result.stdout == b""
    assert result.stderr.count(b"denied") + result.stderr.count(b"permitted") + result.stderr.count(b"No such") >= 3
    assert job.poll() is None


def test_values_of_variables_and_passwords_are_not_written_down(place: Path) -> None:
    command = ["sh", "-c", "sleep 100", "sh", "--password", "hunter-2", "https://me:pass@host/"]
    with Sandbox(preset("default"), name="job", env={"API_TOKEN": "t0ken-value"}).popen(command):
        (run,) = list_runs()
        written = "".join(file.read_text() for file in place.glob("*.json*"))
    assert "API_TOKEN" in run.policy
    for secret in ("hunter-2", "pass@", "t0ken-value"):
        assert secret not in written


def test_the_log_outlives_the_run_and_the_latest_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandlock_runtime.registry._LITTER_S", -1.0)
    for code in (3, 4):
        Sandbox(preset("default"), name="job", max_processes=1).run(["sh", "-c", f"(echo x); exit {code}"])
    list_runs()
    (log,) = ended_logs("job")
    told = [json.loads(line) for line in Path(log).read_text().splitlines()]
    timeline = ("launched", "process", "sample")
    assert [line["event"] for line in told if line["event"] not in timeline] == ["start", "denied", "end"]
    assert told[0]["command"][-1].endswith("exit 4")
    assert ended_logs("other") == ()


def test_names_that_have_ended_do_not_pile_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandlock_runtime.registry._LITTER_S", -1.0)
    monkeypatch.setattr("sandlock_runtime.registry._LOGS_KEPT", 3)
    for number in range(6):
        Sandbox(preset("default"), name=f"job{number}").run(["true"])
    list_runs()
    assert len(list(place.iterdir())) == 3


def test_a_run_that_cannot_be_listed_for_a_fault_of_ours_does_not_stay_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a fault")

    mark = f"sleep 76543{os.getpid()}"
    monkeypatch.setattr("sandlock_runtime.registration.new_entry", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        start(script=f"{mark} & {mark}")
    assert subprocess.run(["pgrep", "-f", mark], capture_output=True, check=False).stdout == b""
