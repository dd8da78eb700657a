"""The other verbs: profile, completion, version, help."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandlock_cli.completion import script
from sandlock_cli.help import verb_text
from sandlock_cli.options import VERBS, run_options
from sandlock_cli.verbs import PROFILE_ACTIONS, SHELLS

if TYPE_CHECKING:
    from conftest import Typed


@pytest.fixture
def profiles(tmp_path: Path, sandlock: Typed) -> Path:
    folder = tmp_path / "home/.config/sandlock/profiles"
    folder.mkdir(parents=True)
    for name, text in {
        "good": '[filesystem]\nread = ["/usr"]\n',
        "wrong": '[filesystem]\nraed = ["/usr"]\n[limits]\nmemory = "x"\n',
        "later": '[limits]\nmemory = "1G"\n[program]\nsupervisor = false\n',
        "gone": '[filesystem]\nread = ["/no/such/place"]\n',
    }.items():
        file = folder / f"{name}.toml"
        file.write_text(text)
        file.chmod(0o600)
    return folder


def test_profiles_are_listed_shown_and_deleted(sandlock: Typed, profiles: Path) -> None:
    assert sandlock("profile", "list").stdout.split() == ["gone", "good", "later", "wrong"]
    assert sandlock("profile", "show", "good").stdout == '[filesystem]\nread = ["/usr"]\n'
    assert sandlock("profile", "delete", "good", "gone").returncode == 0
    assert sorted(file.name for file in profiles.iterdir()) == ["later.toml", "wrong.toml"]


@pytest.mark.needs("landlock", level=2)
def test_checking_profiles_tells_each_fault(sandlock: Typed, profiles: Path) -> None:
    good = sandlock("profile", "check", "good")
    assert (good.returncode, good.stderr) == (0, "")
    done = sandlock("profile", "check")
    assert done.returncode == 1
    assert done.stdout.startswith("good: right")
    lines = done.stderr.splitlines()
    assert all(line.startswith("sandlock: ") for line in lines)
    assert any("wrong" in line and "filesystem.raed" in line and "filesystem.read" in line for line in lines)
    assert any("wrong" in line and "limits.memory" in line for line in lines)
    assert any("later" in line and "max_memory" in line for line in lines)
    assert any("gone" in line and "/no/such/place" in line for line in lines)
    assert sandlock("profile", "check", "--file", str(profiles / "good.toml")).returncode == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "list, show, check, delete"),
        (["shwo"], 2, "did you mean 'show'?"),
        (["show"], 2, "needs the name of a profile"),
        (["delete", "--file", "x"], 2, "needs the name"),
        (["show", "nosuch"], 1, "there is no profile 'nosuch'"),
        (["delete", "nosuch"], 1, "there is no profile 'nosuch'"),
        (["show", "../../etc/passwd"], 1, "cannot be here in a name"),
        (["list", "x"], 2, "takes no names"),
    ],
)
def test_what_profile_cannot_do_is_told(sandlock: Typed, words: list[str], status: int, said: str) -> None:
    done = sandlock("profile", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def completed(*words: str, folder: Path) -> list[str]:
    """Return what bash offers for the last of `words`."""
    call = (
        'eval "$SCRIPT"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sandlock; '
        'for word in "${COMPREPLY[@]}"; do echo "$word"; done'
    )
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "--norc", "-c", call, "bash", *words],
        env={"SCRIPT": script("bash"), "PATH": f"{folder}:/usr/bin:/bin"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_verbs_options_values_and_commands(tmp_path: Path) -> None:
    (tmp_path / "some-file").write_text("")
    for name, text in (("some-program", ""), ("sandlock", "echo mine other\n")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)
    assert completed("sandlock", "ru", folder=tmp_path) == ["run"]
    assert completed("sandlock", "run", "--fs-r", folder=tmp_path) == ["--fs-read"]
    assert completed("sandlock", "run", "--no-private", folder=tmp_path) == ["--no-private-tmp"]
    assert completed("sandlock", "run", "--preset", "py", folder=tmp_path) == ["python"]
    assert completed("sandlock", "run", "-p", "mi", folder=tmp_path) == ["mine"]
    assert completed("sandlock", "run", "--disable", "unix", folder=tmp_path) == ["unix_sockets"]
    assert "some-file" in completed("sandlock", "run", "-r", "some-", folder=tmp_path)
    assert completed("sandlock", "run", "-r", "/usr", "some-p", folder=tmp_path) == ["some-program"]
    assert completed("sandlock", "run", "--", "x", "some-f", folder=tmp_path) == ["some-file"]
    assert completed("sandlock", "profile", "sh", folder=tmp_path) == ["show"]
    assert completed("sandlock", "profile", "show", "oth", folder=tmp_path) == ["other"]
    assert completed("sandlock", "completion", "", folder=tmp_path)[:3] == list(SHELLS)
    for verb in ("logs", "kill", "diff", "commit", "inspect"):
        assert completed("sandlock", verb, "mi", folder=tmp_path) == ["mine"], verb
    assert completed("sandlock", "learn", "--mer", folder=tmp_path) == ["--merge"]
    assert completed("sandlock", "learn", "-o", "some-f", folder=tmp_path) == ["some-file"]
    assert completed("sandlock", "learn", "--", "some-p", folder=tmp_path) == ["some-program"]
    assert completed("sandlock", "mcp", "--max-ou", folder=tmp_path) == ["--max-output"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script_knows_every_verb_and_spelling(shell: str) -> None:
    text = script(shell)
    for verb in VERBS:
        assert verb in text
    for option in run_options():
        for flag in filter(None, (*option.flags, option.off_flag)):
            spelt = flag if shell != "fish" else f"-l {flag[2:]}" if flag[:2] == "--" else f"-s {flag[1:]}"
            assert spelt in text, flag


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_no_help_text_can_end_its_quotes_or_be_run(shell: str) -> None:
    lines = [line for line in script(shell).splitlines() if not line.startswith("#")]
    for line in lines:
        assert line.count("'") % 2 == 0, line
        assert "`" not in line


def test_completion_wants_a_known_shell(sandlock: Typed) -> None:
    assert sandlock("completion", "bash").stdout == script("bash")
    done = sandlock("completion", "tcsh")
    assert done.returncode == 2
    assert "bash, zsh, fish" in done.stderr


def test_version_tells_what_a_report_needs(sandlock: Typed) -> None:
    told = json.loads(sandlock("version", "--json").stdout)
    closure = {f"sandlock-{part}" for part in "arch checkpoint cli cow notif policy proxy runtime sys".split()}
    assert set(told) - {"sandlock"} == closure | {"python", "linux", "landlock"}, "sandlock itself need not be there"
    assert sandlock("--version").stdout == sandlock("version").stdout
    assert told["linux"] in sandlock("version").stdout


def test_help_shows_every_option_with_its_default(sandlock: Typed) -> None:
    done = sandlock("run", "--help")
    assert done.returncode == 0
    assert sandlock("help", "run").stdout == done.stdout
    for option in run_options():
        assert ", ".join(option.flags) in done.stdout
    joined = " ".join(done.stdout.split())
    for text in ("(RLIMIT_NOFILE) [no limit]", "after a timeout [2]", "host allows them [auto]", "[on]", "[off]"):
        assert text in joined
    assert "-m, --max-memory SIZE" in joined


@pytest.mark.parametrize("width", [40, 72, 100])
def test_help_fits_the_terminal(width: int) -> None:
    rows = [row for row in verb_text("run", width).splitlines() if row.startswith(" " * 10)]
    assert max(map(len, rows)) <= width


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(sandlock: Typed, verb: str) -> None:
    done = sandlock(verb, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: sandlock ")


def test_help_names_the_verbs_and_the_actions(sandlock: Typed) -> None:
    for words in ([], ["help"], ["--help"], ["-h"]):
        assert all(f"  {verb} " in sandlock(*words).stdout for verb in VERBS)
    assert all(action in sandlock("profile", "-h").stdout for action in PROFILE_ACTIONS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "did you mean 'run'?"),
        (["ls"], "sandlock run -- ls"),
        (["help", "rnu"], "did you mean 'run'?"),
        (["check", "x"], "takes no x"),
        (["version", "--jsno"], "did you mean '--json'?"),
    ],
)
def test_a_slip_is_answered_with_what_was_probably_meant(sandlock: Typed, words: list[str], said: str) -> None:
    done = sandlock(*words)
    assert done.returncode == 2
    assert said in done.stderr
