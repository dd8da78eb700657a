"""Dry runs, and the verbs for what a run left to decide about: branches, diff, commit, discard."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_lab import Command

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.needs("mount_namespace")]

EDITS = (
    "echo x > new; rm gone; mv moved sub/moved2; chmod 755 mode; echo more >> grown; ln -s a 'a link'; mkdir d; "
    "mkdir -p .git/hooks; echo 'echo owned' > .git/hooks/post-commit"
)


@pytest.fixture
def sandlock(tmp_path: Path) -> Command:
    """The command in a folder with a few files."""
    command = Command(tmp_path)
    (command.work / "sub").mkdir()
    for name in ("gone", "moved", "mode", "grown", "same"):
        (command.work / name).write_text(f"{name}\n")
        (command.work / name).chmod(0o644)
    return command


def deferred(sandlock: Command, script: str = EDITS, action: str = "defer") -> str:
    """Run `script` on a branch, and return the name of the branch that waits."""
    done = sandlock("run", "--preset", "default", "--workdir", ".", "--on-exit", action, "-e", script)
    assert done.returncode == 0, done.stderr
    (branch,) = sandlock.told("branches")["branches"]
    assert f"sandlock commit {branch['name']}" in done.stderr
    assert f"sandlock diff {branch['name']}" in done.stderr
    name: str = branch["name"]
    return name


def deferred_again(sandlock: Command) -> str:
    """Leave one more branch, and return its name."""
    known = {branch["name"] for branch in sandlock.told("branches")["branches"]}
    sandlock("run", "--preset", "default", "--workdir", ".", "--on-exit", "keep", "-e", "echo again > again")
    names: list[str] = [branch["name"] for branch in sandlock.told("branches")["branches"]]
    return next(name for name in names if name not in known)


@pytest.mark.parametrize("grants", [[], ["-w", "."], ["-w", "sub"], ["--preset", "build"], ["--workdir", "."]])
def test_a_dry_run_shows_everything_and_changes_nothing(sandlock: Command, grants: list[str]) -> None:
    before = sandlock.tree()
    done = sandlock("run", "--dry-run", *grants, "-e", f"{EDITS}; cat new grown")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[:3] == ["x", "grown", "more"], "inside it is seen"
    assert [line for line in done.stdout.splitlines()[3:] if ".git" not in line] == [
        "A 120777 'a link'",
        "A 040755 d",
        "D 100644 gone",
        "M 100644 grown",
        "M 100644->100755 mode",
        "R 100644 moved -> sub/moved2",
        "A 100644 new",
    ]
    assert "A 100644 .git/hooks/post-commit (runs later: git hook)" in done.stdout.splitlines()
    assert sandlock.tree() == before
    assert list(sandlock.branches.iterdir()) == []
    assert sandlock("run", "-w", ".", "-e", EDITS).returncode == 0
    assert sandlock.tree() != before, "the positive control: without --dry-run the script changes the tree"


def test_a_dry_run_keeps_the_status_of_the_program_and_shows_its_changes_too(sandlock: Command) -> None:
    done = sandlock("run", "--dry-run", "-q", "-e", "echo x > new; exit 7")
    assert (done.returncode, done.stdout) == (7, "A 100644 new\n")
    storage = ["--fs-storage", str(sandlock.work.parent / "storage")]
    done = sandlock("run", "--dry-run", "--on-exit", "commit", "--on-error", "commit", *storage, "-e", "echo x > new")
    assert done.stdout == "A 100644 new\n"
    assert "new" not in sandlock.tree()


def test_a_dry_run_that_could_write_elsewhere_is_refused(sandlock: Command, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    done = sandlock("run", "--dry-run", "-w", str(outside), "-e", f"echo x > {outside}/made")
    assert done.returncode == 125
    assert "filesystem.write (--fs-write)" in done.stderr
    assert "for real" in done.stderr
    assert list(outside.iterdir()) == []


def test_a_dry_run_as_json_loses_no_name(sandlock: Command) -> None:
    told = sandlock.told("run", "--dry-run", "-e", "mv moved sub/moved2; printf x > \"$(printf 'n\\377')\"; echo out")
    changes = {change["path"]: change for change in told["changes"]}
    assert told["stdout"] == "out\n"
    assert told["renames"] == [["moved", "sub/moved2"]]
    assert os.fsencode("n\udcff") == b"n\xff"
    assert changes["n\udcff"]["after"]["type"] == "file"
    assert changes["moved"]["after"] is None
    assert changes["sub/moved2"]["after"]["sha256"] == changes["moved"]["before"]["sha256"]


@pytest.mark.parametrize("action", ["defer", "keep"])
def test_a_branch_that_waits_is_listed_shown_and_committed(sandlock: Command, action: str) -> None:
    before = sandlock.tree()
    name = deferred(sandlock, "echo x > new; rm gone; chmod 600 mode", action)
    assert sandlock.tree() == before
    (branch,) = sandlock.told("branches")["branches"]
    assert (branch["state"], branch["workdir"]) == ("kept", str(sandlock.work))
    assert name in sandlock("branches").stdout
    shown = sandlock("diff", name)
    assert shown.stdout.splitlines() == ["D 100644 gone", "M 100644->100600 mode", "A 100644 new"]
    assert sandlock("diff", branch["path"]).stdout == shown.stdout
    assert [change["path"] for change in sandlock.told("diff", name)["changes"]] == ["gone", "mode", "new"]
    assert sandlock.tree() == before, "looking changes nothing"
    done = sandlock("commit", name)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown.stdout, "")
    after = sandlock.tree()
    assert after["new"] == "100644 x\n"
    assert "gone" not in after
    assert after["same"] == "100644 same\n"
    assert after["mode"].startswith("100600")
    assert sandlock("branches").stdout == ""


def test_a_patch_shows_the_lines_and_git_takes_it(sandlock: Command) -> None:
    name = deferred(sandlock)
    told = sandlock("diff", "-p", name)
    assert told.returncode == 0
    assert "diff --git a/grown b/grown\n--- a/grown\n+++ b/grown\n@@ -1 +1,2 @@\n grown\n+more\n" in told.stdout
    before, _, _ = told.stdout.partition("diff --git")
    assert "# A 100644 .git/hooks/post-commit (runs later: git hook)\n" in before, "what runs later is told first"
    assert "# A 040755 d\n" in before
    assert sandlock("diff", "--patch", name, "mode", "sub").stdout.count("diff --git") == 2
    assert sandlock("diff", name, "grown").stdout == "M 100644 grown\n"
    refused = sandlock("diff", name, "no-such")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "nothing was changed at no-such" in refused.stderr
    assert sandlock("diff", "-p", "--json", name).returncode == 2


def on_a_terminal(sandlock: Command, *words: str) -> str:
    """Return what is shown where stdout is a terminal."""
    main, side = pty.openpty()
    try:
        subprocess.run(sandlock.line(*words), cwd=sandlock.work, env=sandlock.env, stdout=side, check=True, timeout=60)
        return os.read(main, 65536).decode()
    finally:
        os.close(side)
        os.close(main)


def test_on_a_terminal_a_patch_cannot_speak(sandlock: Command) -> None:
    name = deferred(sandlock, r"printf 'a\tb\033[31mred\r\n' > new")
    told = on_a_terminal(sandlock, "diff", "-p", name)
    assert "\x1b[31m" not in told and r"+a\tb\x1b[31mred\r".replace(r"\t", "\t") in told
    assert "\x1b[31m" in sandlock("diff", "-p", name).stdout, "into a pipe it is as it is"


def test_a_branch_is_named_by_how_it_begins_or_as_the_last_one_here(sandlock: Command, tmp_path: Path) -> None:
    first = deferred(sandlock)
    assert sandlock("diff", "last").stdout == sandlock("diff", first).stdout == sandlock("diff", first[:12]).stdout
    done = sandlock("run", "--preset", "default", "--workdir", "sub", "--on-exit", "keep", "-e", "echo > sub/second")
    assert done.returncode == 0
    assert sandlock("diff", "last").stdout == "A 100644 second\n"
    assert sandlock("discard", "last").returncode == 0
    assert sandlock("commit", "last", "grown").stdout == "M 100644 grown\n"
    second = deferred_again(sandlock)
    common = first[: next((n for n, (a, b) in enumerate(zip(first, second, strict=True)) if a != b))]
    refused = sandlock("diff", common)
    assert refused.returncode == 1
    if common:
        assert "2 branches begin with" in refused.stderr
    sandlock.work = tmp_path / "home"
    refused = sandlock("discard", "last")
    assert refused.returncode == 1
    assert "no branch over" in refused.stderr


def test_some_paths_are_committed_and_the_rest_waits(sandlock: Command) -> None:
    name = deferred(sandlock, "echo 1 > new; echo 2 > sub/deep; echo 3 > grown")
    done = sandlock("commit", name, "sub", str(sandlock.work / "new"))
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["A 100644 new", "A 100644 sub/deep"]
    assert sandlock.tree()["grown"] == "100644 grown\n"
    assert sandlock("diff", name).stdout == "M 100644 grown\n"


@pytest.mark.parametrize("path", ["nwe", "/etc", "../work2/new"])
def test_a_path_that_was_not_changed_applies_nothing(sandlock: Command, path: str) -> None:
    name = deferred(sandlock, "echo 1 > new; echo 3 > grown")
    before = sandlock.tree()
    done = sandlock("commit", name, "new", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert path in done.stderr
    assert sandlock.tree() == before
    assert len(sandlock("diff", name).stdout.splitlines()) == 2


def test_what_runs_later_is_committed_only_by_name(sandlock: Command) -> None:
    name = deferred(sandlock, "mkdir -p .git/hooks; echo evil > .git/hooks/post-commit; echo x > new")
    hook = sandlock.work / ".git/hooks/post-commit"
    for words in ([name], [name, "."], [name, ".git"], [name, ".git/hooks"]):
        done = sandlock("commit", *words)
        assert done.returncode == 1, words
        assert ".git/hooks/post-commit: git hook" in done.stderr
        assert not hook.exists()
        assert "new" not in sandlock.tree()
    done = sandlock("commit", "--late", ".git/hooks/post-commit", name)
    assert done.returncode == 0, done.stderr
    assert hook.read_text() == "evil\n"
    assert "new" in sandlock.tree()


def test_a_run_whose_changes_cannot_be_committed_says_so_and_fails(sandlock: Command) -> None:
    script = "mkdir -p .git/hooks; echo evil > .git/hooks/post-commit"
    done = sandlock("run", "--preset", "default", "--workdir", ".", "-e", script)
    assert done.returncode == 125
    assert "not committed" in done.stderr
    assert "--late .git/hooks/post-commit" in done.stderr
    assert not (sandlock.work / ".git").exists()
    told = sandlock.told("run", "--preset", "default", "--workdir", ".", "-e", script)
    assert (told["success"], told["status"], told["exit_code"]) == (False, 125, 0)
    assert Path(told["branch"]).is_dir()
    assert len(sandlock.told("branches")["branches"]) == 2


def test_a_tree_that_changed_meanwhile_is_a_conflict_and_nothing_is_applied(sandlock: Command) -> None:
    name = deferred(sandlock, "echo mine > grown; echo x > new")
    time.sleep(0.05)
    (sandlock.work / "grown").write_text("theirs\n")
    done = sandlock("commit", name)
    assert done.returncode == 1
    assert "nothing was applied" in done.stderr
    assert "grown" in done.stderr
    assert sandlock.tree()["grown"] == "100644 theirs\n"
    assert "new" not in sandlock.tree()
    assert sandlock("diff", name).returncode == 0


def test_discarded_branches_are_gone_and_the_tree_stays(sandlock: Command) -> None:
    before = sandlock.tree()
    name = deferred(sandlock)
    assert sandlock("discard", name).returncode == 0
    assert sandlock.tree() == before
    assert sandlock("branches").stdout == ""
    again = sandlock("discard", name)
    assert again.returncode == 1
    assert "there is no branch" in again.stderr


def test_a_branch_of_another_storage_is_named_by_its_path(sandlock: Command, tmp_path: Path) -> None:
    storage = tmp_path / "else where"
    words = ["--workdir", ".", "--on-exit", "keep", "--fs-storage", str(storage), "-e", "echo x > new"]
    done = sandlock("run", "--preset", "default", *words)
    (branch,) = sandlock.told("branches", "--storage", str(storage))["branches"]
    assert f"`sandlock diff '{branch['path']}'`" in done.stderr
    assert sandlock("diff", branch["path"]).stdout == "A 100644 new\n"
    assert sandlock("diff", "--storage", str(storage), branch["name"]).stdout == "A 100644 new\n"
    assert sandlock("diff", branch["name"]).returncode == 1
    assert sandlock("discard", branch["path"]).returncode == 0
    assert sandlock.told("branches", "--storage", str(storage))["branches"] == []


def test_a_branch_in_use_is_left_alone(sandlock: Command) -> None:
    running = sandlock.start(
        "run", "--preset", "default", "--workdir", ".", "-e", "echo x > new; echo up; sleep 60; exit 1"
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        (folder,) = sandlock.branches.iterdir()
        assert sandlock("branches").stdout == ""
        for verb in ("diff", "commit", "discard"):
            done = sandlock(verb, folder.name)
            assert done.returncode == 1
            assert "open" in done.stderr
        assert folder.exists()
    finally:
        running.terminate()
        running.communicate()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["diff"], 2, "diff needs a branch"),
        (["commit"], 2, "needs a branch"),
        (["discard"], 2, "needs a branch"),
        (["branches", "x"], 2, "takes no x"),
        (["diff", "nosuch"], 1, "there is no branch nosuch"),
        (["commit", "nosuch"], 1, "there is no branch nosuch"),
        (["diff", "/etc"], 1, "/etc"),
        (["discard", "/etc"], 1, "/etc"),
        (["branches", "--storage", "/etc/passwd"], 1, "is no directory"),
    ],
)
def test_what_is_no_branch_is_told(sandlock: Command, words: list[str], status: int, said: str) -> None:
    done = sandlock(*words)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_names_of_files_cannot_speak_to_the_terminal_nor_forge_a_line(sandlock: Command) -> None:
    script = "printf x > \"$(printf 'a\\033]52;c;eA==\\007\\nA 100644 forged')\"; echo x > 'b (runs later: x)'"
    done = sandlock("run", "--dry-run", "-e", script)
    assert len(done.stdout.splitlines()) == 2
    assert all(line.isprintable() for line in done.stdout.splitlines())
    assert "A 100644 'b (runs later: x)'" in done.stdout.splitlines()


def test_progress_is_drawn_on_a_terminal_and_never_into_a_pipe(sandlock: Command) -> None:
    script = "for i in $(seq 300); do echo $i > f$i; done"
    name = deferred(sandlock, script)
    done, drawn = sandlock.on_terminal("commit", name)
    assert done.returncode == 0
    assert drawn.startswith(b"\r[")
    assert b"of the changes" in drawn
    assert drawn.endswith(b"\r\x1b[K"), "it is erased at the end"
    name = deferred(sandlock, "rm f*")
    assert sandlock("commit", name).stderr == ""


def test_a_killed_run_leaves_its_branch_for_a_decision(sandlock: Command) -> None:
    before = sandlock.tree()
    running = sandlock.start(
        "run", "--preset", "default", "--workdir", ".", "-e", "echo x > new; rm gone; echo up; sleep 60"
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    running.kill()
    running.communicate()
    (branch,) = sandlock.listed("branches", "branches")
    assert branch["state"] == "left"
    assert sandlock.tree() == before
    assert sandlock("diff", branch["name"]).stdout == "D 100644 gone\nA 100644 new\n"
    assert sandlock("commit", branch["name"]).returncode == 0
    after = sandlock.tree()
    assert after["new"].endswith("x\n")
    assert "gone" not in after


# The command, killed at the Nth call that changes a file system, of one part of its work. sandlock-cow's own tests try
# every single call.
KILLED = """
import os, signal, sys
from sandlock_cli import commit, main
from sandlock_cow import committing, storage
phase, count, at = "stage", 0, int(sys.argv[2])
def counted(function):
    def call(*arguments, **named):
        global count
        count += phase == sys.argv[1]
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call
def begins(name, function):
    def call(*arguments, **named):
        global phase
        phase = name
        return function(*arguments, **named)
    return call
for name in "rename unlink rmdir mkdir link symlink mknod chmod chown utime fsync write".split():
    setattr(os, name, counted(getattr(os, name)))
committing.exchange = counted(committing.exchange)
committing.rename_new = counted(committing.rename_new)
committing._apply = begins("apply", committing._apply)
storage.Store.remove = begins("remove", storage.Store.remove)
os._exit(main.dispatch(["commit", sys.argv[3]]))
"""


def test_a_commit_that_is_killed_is_finished_or_undone_by_the_next_command(sandlock: Command) -> None:
    script = "echo new > grown; rm gone; mkdir d; mv moved d/moved2; ln d/moved2 d/again; ln -s d l; chmod 600 mode"

    def left_by(phase: str, at: int) -> str:
        """Do all anew, and kill the commit there; return the name of its branch."""
        subprocess.run(["rm", "-rf", *[str(path) for path in sandlock.work.iterdir()]], check=True)
        subprocess.run(["cp", "-a", f"{kept}/.", str(sandlock.work)], check=True)
        done = sandlock("run", "--preset", "default", "--workdir", ".", "--on-exit", "keep", "-e", script)
        assert done.returncode == 0, done.stderr
        (folder,) = [path for path in sandlock.branches.iterdir() if path.name[0] != "."]
        line = [sys.executable, "-c", KILLED, phase, str(at), folder.name]
        killed = subprocess.run(line, cwd=sandlock.work, env=sandlock.env, timeout=60, check=False, capture_output=True)
        assert killed.returncode == (-9 if at > 0 else 0), killed.stderr
        return folder.name

    kept = sandlock.work.parent / "kept"
    subprocess.run(["cp", "-a", str(sandlock.work), str(kept)], check=True)
    old = sandlock.tree()
    left_by("none", -1)
    new = sandlock.tree()
    assert new != old, "the positive control: nobody kills it"
    for phase, at in (("stage", 2), ("stage", 9), ("apply", 1), ("apply", 5), ("remove", 2)):
        name = left_by(phase, at)
        found = sandlock.tree()
        for path in old.keys() & new.keys():
            assert found[path] in (old[path], new[path]), (phase, at, path)
        listed = [branch["state"] for branch in sandlock.told("branches")["branches"]]
        states = {"stage": (["kept"], ["committing"]), "apply": (["committing"],), "remove": ([],)}
        assert listed in states[phase], (phase, at)
        if phase == "remove":
            assert found == new
            continue
        shown = sandlock("diff", name)
        assert (shown.returncode, bool(shown.stdout)) == (0, phase == "stage"), (phase, at, shown.stderr)
        assert sandlock.tree() == (old if phase == "stage" else new), (phase, at)
        assert sandlock("commit", name).returncode == 0
        assert sandlock.tree() == new, (phase, at)
