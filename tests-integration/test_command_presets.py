"""The presets for work that is looked at afterwards: `git` and `agent`, as typed."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from command_lab import Command

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.needs("landlock", level=6), pytest.mark.needs("mount_namespace")]

HOOK = "echo evil > .git/hooks/pre-commit; echo new > file"


@pytest.fixture
def sandlock(tmp_path: Path) -> Command:
    """The command, in a repository."""
    command = Command(tmp_path)
    (command.work / ".git/hooks").mkdir(parents=True)
    (command.work / "file").write_text("old\n")
    return command


def test_a_hook_is_planted_under_build_and_not_under_git(sandlock: Command) -> None:
    hook = sandlock.work / ".git/hooks/pre-commit"
    assert sandlock("run", "--preset", "build", "-e", HOOK).returncode == 0
    assert hook.exists(), "the control: where the tree is simply writable, the attack works"
    hook.unlink()
    (sandlock.work / "file").write_text("old\n")
    done = sandlock("run", "--preset", "git", "-e", HOOK)
    assert done.returncode == 125
    assert "git hook" in done.stderr
    assert not hook.exists()
    assert (sandlock.work / "file").read_text() == "old\n", "nothing at all is applied"


def test_what_git_may_do_is_applied(sandlock: Command) -> None:
    done = sandlock("run", "--preset", "git", "-e", "echo new > file; echo 1 > .git/index")
    assert (done.returncode, done.stderr) == (0, "")
    assert (sandlock.work / "file").read_text() == "new\n"
    assert sandlock("run", "--preset", "git", "-e", "echo no > file; exit 4").returncode == 4
    assert (sandlock.work / "file").read_text() == "new\n", "a failure is dropped"


@pytest.mark.needs("command:git")
def test_git_commits_in_it(sandlock: Command) -> None:
    who = "-c user.name=a -c user.email=a@b"
    subprocess.run(["git", "init", "-q", "."], cwd=sandlock.work, env=sandlock.env, check=True)
    done = sandlock("run", "--preset", "git", "-e", f"git add file && git {who} commit -qm one && git log --format=%s")
    assert (done.returncode, done.stdout) == (0, "one\n"), done.stderr
    log = subprocess.run(
        ["git", "log", "--format=%s"], cwd=sandlock.work, env=sandlock.env, capture_output=True, text=True, check=True
    )
    assert log.stdout == "one\n"


def test_an_agent_has_a_home_of_its_own_and_its_work_waits(sandlock: Command) -> None:
    home = sandlock.env["HOME"]
    script = 'touch "$HOME/mine" && ls "$HOME"; echo new > file; [ "$HOME" = "$TMPDIR" ] && echo private'
    done = sandlock("run", "--preset", "agent", "-e", f"{script}; cat {home}/.secret")
    assert done.stdout == "mine\nprivate\n"
    assert done.returncode == 1
    assert (sandlock.work / "file").read_text() == "old\n"
    (branch,) = (line.split()[0] for line in sandlock("branches").stdout.splitlines())
    assert sandlock("diff", branch).stdout.split() == ["M", "100644", "file"]
    assert sandlock("commit", branch).returncode == 0
    assert (sandlock.work / "file").read_text() == "new\n"


def test_an_agent_is_not_let_loose_on_a_home(sandlock: Command) -> None:
    sandlock.env["HOME"] = str(sandlock.work)
    done = sandlock("run", "--preset", "agent", "--", "true")
    assert done.returncode == 125
    assert "no place of one project's work" in done.stderr


@pytest.mark.parametrize(
    ("preset", "variable"), [("node", "npm_config_cache"), ("build", "GOCACHE"), ("python", "PIP_CACHE_DIR")]
)
def test_caches_that_a_tool_insists_on_are_below_the_private_temporary_directory(
    sandlock: Command, preset: str, variable: str
) -> None:
    done = sandlock("run", "--preset", preset, "-e", f'mkdir -p "${variable}/x" && echo "${variable}" "$TMPDIR"')
    place, private = done.stdout.split()
    assert done.returncode == 0
    assert place.startswith(f"{private}/")
