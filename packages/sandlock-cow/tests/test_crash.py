"""kill -9 at every system call of a commit: afterwards each file is old or new, and resuming finishes or undoes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cow_lab import Lab, write

from sandlock_cow import Branch, State, list_preserved, metadata, removing, storage

# Every call that changes a file system, counted; at the given one the process is killed before or after it.
COMMITTER = """
import os, signal, sys
from sandlock_cow import Branch
from sandlock_cow import committing, removing, journal, staging, storage
at, after = int(sys.argv[2]), sys.argv[3] == "after"
count = 0
def counted(function):
    def call(*arguments, **named):
        global count
        count += 1
        mine = count
        if mine == at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return function(*arguments, **named)
        finally:
            if mine == at and after:
                os.kill(os.getpid(), signal.SIGKILL)
    return call
branch = Branch.resume(sys.argv[1])
for name in "rename unlink rmdir mkdir link symlink mknod chmod chown utime fsync write open".split():
    setattr(os, name, counted(getattr(os, name)))
committing.exchange = counted(committing.exchange)
committing.rename_new = counted(committing.rename_new)
branch.commit()
print("survived", count)
"""


def prepare(lab: Lab) -> str:
    """A branch with one of each kind of step."""
    branch = lab.branch()
    write(branch, b"file", b"new content", os.O_TRUNC)
    write(branch, b"added", b"added")
    branch.unlink(b"other")
    branch.mkdir(b"other", 0o750)
    write(branch, b"other/inside", b"inside")
    branch.unlink(b"directory/inner/two")
    branch.rmdir(b"directory/inner")
    write(branch, b"directory/inner", b"a file now")
    branch.symlink(b"file", b"directory/link")
    write(branch, b"linked", b"both names", os.O_TRUNC)
    branch.unlink(b"fifo")
    return branch.keep()


def contents(lower: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(lower.rglob("*")):
        name = str(path.relative_to(lower))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_text()
        else:
            found[name] = path.is_dir()
    return found


OLD_OR_NEW = {
    "file": ("file", "new content"),
    "directory/one": ("one", "one"),
    "linked": ("linked", "both names"),
    "directory/linked too": ("linked", "both names"),
}


def run(path: str, step: int, when: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMITTER, path, str(step), when],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def fresh(root: Path, number: str) -> Lab:
    (root / number).mkdir()
    return Lab(root / number)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_step_the_tree_is_old_or_new_and_resuming_settles_it(tmp_path: Path, when: str) -> None:
    lab = fresh(tmp_path, "bare")
    old = contents(lab.lower)
    whole = run(prepare(lab), 0, when)
    assert whole.stdout.startswith("survived"), whole.stderr
    new = contents(lab.lower)
    steps = int(whole.stdout.split()[1])
    assert steps > 30
    finished = undone = 0
    for step in range(1, steps + 1):
        lab = fresh(tmp_path, f"{step}")
        path = prepare(lab)
        killed = run(path, step, when)
        assert killed.returncode == -signal.SIGKILL, (step, killed.stderr)
        for name, allowed in OLD_OR_NEW.items():
            assert (lab.lower / name).read_text() in allowed, (step, name)
        left = list_preserved(str(lab.storage))
        if left:
            branch = Branch.resume(left[0].path)
            if branch.changes():
                assert contents(lab.lower) == old, step
                assert left[0].state is not State.LEFT
                branch.commit()
                undone += 1
            else:
                finished += 1
                branch.discard()
        assert contents(lab.lower) == new, step
        again = lab.branch()  # sweeps what was half removed
        again.discard()
        assert os.listdir(lab.storage) == [], step
    assert finished > 3
    assert undone > 3


@pytest.mark.parametrize("how", ["discard", "refused"])
def test_a_sweep_of_somebody_else_takes_nothing_from_who_removes_a_branch(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    swept = 0

    def sweep_first(home: int, name: bytes) -> None:
        nonlocal swept
        monkeypatch.undo()
        storage.sweep(home)
        assert name in [os.fsencode(entry) for entry in os.listdir(home)]
        swept += 1
        removing.remove_tree(home, name)

    branch = lab.branch()
    if how == "refused":
        branch.discard()
        monkeypatch.setattr(metadata, "copy_directory", lambda *_: 1 / 0)
    monkeypatch.setattr(storage, "remove_tree", sweep_first)
    if how == "refused":
        with pytest.raises(ZeroDivisionError):
            lab.branch()
    else:
        branch.discard()
    assert swept == 1
    assert os.listdir(lab.storage) == []


def test_an_undone_commit_leaves_the_times_of_directories(lab: Lab) -> None:
    before = lab.fingerprint()
    path = prepare(lab)
    whole = None
    for step in range(1, 200):
        killed = run(path, step, "after")
        if killed.returncode != -signal.SIGKILL:
            whole = killed
            break
        if (left := list_preserved(str(lab.storage))) and left[0].state is State.COMMITTING:
            branch = lab.resume(path)
            if not branch.changes():
                break
            assert lab.fingerprint() == before, step
            branch.keep()
    assert whole is None or whole.returncode == 0


def test_an_interrupted_commit_is_discarded_when_its_tree_is_gone(lab: Lab) -> None:
    path = prepare(lab)
    for step in range(1, 200):
        assert run(path, step, "after").returncode == -signal.SIGKILL
        [left] = list_preserved(str(lab.storage))
        if left.state is State.COMMITTING:
            break
    lab.lower.rename(lab.root / "gone")
    left.discard()
    assert os.listdir(lab.storage) == []
