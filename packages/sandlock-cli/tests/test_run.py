"""`sandlock run`: grants, streams, statuses and reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Typed

pytestmark = pytest.mark.needs("landlock", level=2)


def test_the_default_preset_holds_and_grants_add_to_it(sandlock: Typed, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    refused = sandlock("run", "--", "cat", str(secret))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Permission denied" in refused.stderr
    assert sandlock("run", "-r", str(secret), "--", "cat", str(secret)).stdout == "canary"


def test_options_without_a_verb_are_those_of_run(sandlock: Typed, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    assert sandlock("-r", str(secret), "--", "cat", str(secret)).stdout == "canary"
    assert sandlock("--", "echo", "x").stdout == "x\n"


def test_the_preset_none_grants_nothing(sandlock: Typed) -> None:
    assert sandlock("run", "--", "true").returncode == 0
    done = sandlock("run", "--preset", "none", "--", "true")
    assert done.returncode == 126
    assert "--fs-read" in done.stderr
    assert sandlock("run", "--preset=none", "-r/usr", "-r-/lib", "-r-/lib64", "-r-/bin", "--", "true").returncode == 0


def test_a_switch_clears_what_the_preset_sets(sandlock: Typed) -> None:
    script = 'test -n "$TMPDIR" && echo x >"$TMPDIR/f" && echo written'
    assert sandlock("run", "-e", script).stdout == "written\n"
    assert sandlock("run", "--no-private-tmp", "-e", script).stdout == ""


def test_streams_are_the_callers(sandlock: Typed) -> None:
    done = sandlock("run", "--", "sh", "-c", "cat; echo err >&2", stdin="through")
    assert (done.stdout, done.stderr) == ("through", "err\n")


def test_a_closed_stream_is_none_of_our_own_pipes(tmp_path: Path) -> None:
    """The pipe that wakes the command for signals took the number 0, and the program could read it empty."""
    script = "readlink /proc/self/fd/0 /proc/self/fd/2"
    command = f'exec "$0" -m sandlock_cli run -r /proc -w /dev/null -- sh -c "{script}" <&- 2>&-'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, check=False)
    assert done.stdout == "/dev/null\n/dev/null\n", done


def test_a_socket_that_leads_out_of_every_sandbox_is_told(sandlock: Typed) -> None:
    told = sandlock("run", "--unix-allow", "/run/docker.sock", "--", "true")
    assert (told.returncode, "Docker (/run/docker.sock)" in told.stderr) == (0, True), told.stderr
    assert sandlock("run", "-q", "--unix-allow", "/run/docker.sock", "--", "true").stderr == ""
    assert sandlock("run", "--unix-allow", "/run/postgresql/.s.PGSQL.5432", "--", "true").stderr == ""


def test_a_shell_command_gets_further_words(sandlock: Typed) -> None:
    assert sandlock("run", "-e", 'echo "$1-$2"', "--", "a", "b c").stdout == "a-b c\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["-e", "exit 0"], 0),
        (["-e", "exit 77"], 77),
        (["-e", "kill -15 $$"], 143),
        (["-e", "kill -9 $$"], 137),
        (["-t", "0.2", "--", "sleep", "20"], 124),
        (["-t", "0.2", "--grace", "0.2", "-e", "trap '' TERM; while :; do sleep 0.1; done"], 124),
        (["-w", "/no/such", "--", "true"], 125),
        (["--max-memory", "1G", "--no-supervisor", "--", "true"], 125),
        (["--max-memory", "banana", "--", "true"], 125),
        (["--preset", "pyhton", "--", "true"], 125),
        (["--", "./plain"], 126),
        (["--", "no-such-program"], 127),
        (["--no-such-option", "--", "true"], 2),
        ([], 2),
        (["--status-fd", "99", "--", "true"], 2),
    ],
)
def test_the_exit_status_tells_what_happened(sandlock: Typed, tmp_path: Path, words: list[str], status: int) -> None:
    (tmp_path / "work" / "plain").write_text("x")
    done = sandlock("run", *words)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    if status in {2, 125, 126, 127}:
        assert done.stderr.startswith("sandlock: ")
        assert done.stdout == ""


def test_every_fault_of_a_policy_is_one_line_with_field_flag_and_remedy(sandlock: Typed) -> None:
    done = sandlock("run", "--max-memory", "1x", "--grace", "-4", "--namespaces", "no", "--", "true")
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("sandlock: ") for line in lines)
    assert "limits.memory (--max-memory)" in lines[0]
    assert "512M" in lines[0]
    assert "limits.grace (--grace)" in lines[1]
    assert "program.namespaces (--namespaces)" in lines[2]
    assert done.returncode == 125


def test_json_captures_both_streams_and_is_all_there_is_on_stdout(sandlock: Typed) -> None:
    done = sandlock("run", "--json", "-e", "echo out; echo err >&2; cat; exit 3", stdin="in")
    told = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert (done.returncode, done.stderr) == (3, "")
    assert {key: told[key] for key in ("success", "status", "exit_code", "reason", "signal", "stdout", "stderr")} == {
        "success": False,
        "status": 3,
        "exit_code": 3,
        "reason": "EXITED",
        "signal": None,
        "stdout": "out\nin",
        "stderr": "err\n",
    }
    assert told["protections"]["fs_access"]["state"] == "active"
    assert told["usage"]["wall_s"] > 0
    assert "stdout_base64" not in told


def test_bytes_that_are_not_text_are_in_the_json_too(sandlock: Typed) -> None:
    told = json.loads(sandlock("run", "--json", "-e", r"printf 'a\377\000b'").stdout)
    assert told["stdout"] == "a�\x00b"
    assert told["stdout_base64"] == "Yf8AYg=="


def test_json_of_a_large_output_does_not_block(sandlock: Typed) -> None:
    told = json.loads(sandlock("run", "--json", "-e", "head -c 3000000 /dev/zero | tr '\\0' x").stdout)
    assert len(told["stdout"]) == 3_000_000


def test_json_of_a_timeout_and_of_a_failed_setup(sandlock: Typed) -> None:
    told = json.loads(sandlock("run", "--json", "-t", "0.2", "--", "sleep", "9").stdout)
    assert (told["reason"], told["status"]) == ("TIMEOUT", 124)
    done = sandlock("run", "--json", "-r", "/no/such", "--", "true")
    told = json.loads(done.stdout)
    assert (told["reason"], told["status"], done.returncode) == ("SETUP", 125, 125)
    assert "/no/such" in told["error"]
    assert "/no/such" in done.stderr


def test_the_status_goes_to_its_fd_and_the_program_does_not_get_that(sandlock: Typed) -> None:
    read, write = os.pipe()
    script = f"echo out; (echo x >&{write}) 2>/dev/null || echo closed; exit 4"
    done = sandlock("run", "--status-fd", str(write), "-e", script, pass_fds=[write])
    os.close(write)
    with os.fdopen(read) as file:
        told = json.loads(file.read())
    assert done.stdout == "out\nclosed\n"
    assert (told["status"], told["exit_code"], done.returncode) == (4, 4, 4)
    assert "stdout" not in told


def test_explain_shows_the_policy_and_its_layers_and_runs_nothing(sandlock: Typed, tmp_path: Path) -> None:
    done = sandlock("run", "-w", ".", "--explain", "--", "touch", "made")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "work" / "made").exists()
    assert "[filesystem]" in done.stdout
    assert "landlock" in done.stdout
    assert str(tmp_path / "work") in done.stdout
    told = json.loads(sandlock("run", "--explain", "--json").stdout)
    assert {"what": "syscalls", "layer": "seccomp"}.items() <= next(
        r for r in told["rules"] if r["what"] == "syscalls"
    ).items()


def test_what_explain_prints_as_a_profile_is_one(sandlock: Typed, tmp_path: Path) -> None:
    told = json.loads(sandlock("run", "-w", "/tmp", "--timeout", "7", "--explain", "--json").stdout)
    profile = tmp_path / "work" / "p.toml"
    profile.write_text(told["profile"])
    profile.chmod(0o600)
    again = json.loads(sandlock("run", "--profile-file", "p.toml", "--explain", "--json").stdout)
    assert again == told


def test_presets_and_profiles_are_merged_in_order_and_options_come_last(sandlock: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "home/.config/sandlock/profiles"
    folder.mkdir(parents=True)
    (folder / "one.toml").write_text('[program]\nenv = ["A=1", "B=1", "C=1"]\n')
    (folder / "two.toml").write_text('[program]\nenv = ["B=2", "C=2"]\n')
    for file in folder.iterdir():
        file.chmod(0o600)
    done = sandlock("run", "--preset", "default", "-p", "one", "-p", "two", "--env", "C=3", "-e", "echo $A$B$C")
    assert done.stdout == "123\n", done.stderr
    alone = sandlock("run", "-p", "one", "--", "true")
    assert alone.returncode == 126, "a profile stands for itself: the default preset is not added to it"


def test_a_virtual_mount_that_nothing_can_make_is_refused_by_name_not_ignored(sandlock: Typed) -> None:
    nothing = ("--namespaces", "off", "--no-supervisor")
    done = sandlock("run", *nothing, "--fs-mount", "/data:/srv:ro", "--fs-mount", "/x:/srv", "--", "true")
    assert done.returncode == 125
    assert "fs_mount" in done.stderr
    assert "fs_mount_ro" in done.stderr


def test_what_the_terminal_would_obey_is_escaped(sandlock: Typed) -> None:
    for word in ("/no/\x1b]52;c;eA==\x07x", "/no/\u202egnp.exe", "/no/a\nsandlock: forged"):
        done = sandlock("run", "--", word)
        assert done.returncode == 127
        assert done.stderr.count("\n") == 1
        assert done.stderr[:-1].isprintable()


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_changes_nothing_about_the_status(tmp_path: Path, redirection: str) -> None:
    shell = ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, "-m", "sandlock_cli"]
    for words, status in ((["run", "-e", "exit 5"], 5), (["run", "--", "/no/such"], 127), (["run", "-r"], 2)):
        assert subprocess.run([*shell, *words], cwd=tmp_path, capture_output=True, check=False).returncode == status
