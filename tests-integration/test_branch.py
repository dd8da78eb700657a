"""Copy-on-write: the program sees its writes, the real tree does not, until they are committed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sandlock import PolicyError, Result, Sandbox, SandboxBusyError
from sandlock_testkit.needs import lacks

pytestmark = [pytest.mark.needs("landlock", level=3)]
WAYS = [pytest.param("auto", marks=pytest.mark.needs("mount_namespace")), pytest.param("off", id="served")]

SYSTEM = ["/usr", "-/bin", "-/sbin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "-/etc/alternatives", "/dev/urandom"]


DEFAULTS: dict[str, Any] = {}


@pytest.fixture(params=WAYS, autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether namespaces show the branch, or the supervisor: the same either way."""
    monkeypatch.setitem(DEFAULTS, "namespaces", request.param)
    return str(request.param)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with a nested folder, a link, a hard link and modes worth keeping."""
    work = tmp_path / "work"
    (work / "sub/deep").mkdir(parents=True)
    (work / "a").write_text("a\n")
    (work / "b").write_text("b\n")
    (work / "sub/deep/c").write_text("c\n")
    (work / "link").symlink_to("a")
    os.link(work / "a", work / "hard")
    (work / "b").chmod(0o640)
    return work


def box(tree: Path, **fields: Any) -> Sandbox:
    fields = {**DEFAULTS, "fs_readable": SYSTEM, "fs_storage": str(tree.parent / "storage"), **fields}
    return Sandbox(workdir=str(tree), cwd=str(tree), fs_writable=["-/dev/null"], **fields)


def run(tree: Path, script: str, **fields: Any) -> Result:
    return box(tree, **fields).run(["/bin/sh", "-c", script], timeout=60)


def waits(sandbox: Sandbox) -> bool:
    return sandbox.pending


def state(tree: Path) -> str:
    """Everything of the tree that a program could change, times included, as one digest."""
    digest = hashlib.sha256()
    for folder, folders, files in sorted(os.walk(tree)):
        for name in sorted([".", *folders, *files]):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            what = [path, status.st_mode, status.st_nlink, status.st_uid, status.st_mtime_ns, status.st_size]
            if os.path.islink(path):
                what.append(os.readlink(path))
            elif os.path.isfile(path):
                what.append(Path(path).read_bytes())
            digest.update(repr(what).encode())
    return digest.hexdigest()


EVERYTHING = """
echo new > a; rm b; mkdir d; echo x > d/x; mv sub/deep sub/moved; ln -s nowhere l; chmod 600 hard
touch -d 2001-01-01 sub; ln a another; : > empty; echo more >> sub/moved/c
"""


def test_what_was_written_is_seen_inside_and_gone_after_an_abort(tree: Path) -> None:
    before = state(tree)
    result = run(tree, f"{EVERYTHING} cat a d/x sub/moved/c; ls", on_exit="abort")
    assert result.stdout.decode().split() == ["new", "x", "c", "more", *"a another d empty hard l link sub".split()]
    assert state(tree) == before
    kinds = {change.path: change.kind for change in result.changes}
    assert kinds["a"] == "M"
    assert kinds["b"] == "D"
    assert kinds["d/x"] == "A"
    assert kinds["sub/deep"] == "D"
    assert kinds["sub/moved/c"] == "A"
    assert os.listdir(tree.parent / "storage") == []


def test_a_commit_makes_the_tree_what_a_bare_run_makes(tree: Path, tmp_path: Path, way: str) -> None:
    bare = tmp_path / "bare"
    if way == "off":
        subprocess.run(["/bin/cp", "-a", str(tree), str(bare)], check=True)  # groups of names stay groups
    else:
        shutil.copytree(tree, bare, symlinks=True)
    subprocess.run(["/bin/sh", "-c", EVERYTHING], cwd=bare, check=True)
    assert run(tree, EVERYTHING).success
    for folder, folders, files in os.walk(bare):
        twin = tree / os.path.relpath(folder, bare)
        assert sorted(os.listdir(twin)) == sorted([*folders, *files])
        for name in files:
            mine, other = twin / name, Path(folder, name)
            assert mine.lstat().st_mode == other.lstat().st_mode, name
            assert mine.is_symlink() == other.is_symlink()
            if not mine.is_symlink():
                assert mine.read_bytes() == other.read_bytes()
    if way == "off":
        assert os.path.samefile(tree / "hard", tree / "a")
        return
    # As in every overlay, a name that is written to leaves the group of names that the real file had.
    assert (tree / "hard").read_text() == "a\n"
    assert (tree / "a").stat().st_nlink == 2  # with `another`, which was linked inside


def test_failure_leaves_the_tree_as_it_was(tree: Path) -> None:
    before = state(tree)
    assert run(tree, f"{EVERYTHING} exit 3").exit_code == 3
    assert state(tree) == before


def test_a_deferred_branch_waits_for_the_decision(tree: Path, way: str) -> None:
    sandbox = box(tree, on_exit="defer")
    before = state(tree)
    result = sandbox.run(["/bin/sh", "-c", "echo new > a; echo y > sub/y; echo z > z"])
    assert waits(sandbox)
    assert state(tree) == before
    other_name = [("M", "hard")] if way == "off" else []
    changed = [("M", "a"), *other_name, ("A", "sub/y"), ("A", "z")]
    assert [(change.kind, change.path) for change in sandbox.changes()] == changed
    assert result.branch
    with pytest.raises(SandboxBusyError, match="pending"):
        sandbox.run(["/bin/true"])
    sandbox.commit(["sub"])
    assert sorted(os.listdir(tree / "sub")) == ["deep", "y"]
    assert (tree / "a").read_text() == "a\n"
    sandbox.commit()
    assert (tree / "z").read_text() == "z\n"
    assert not waits(sandbox)
    assert sandbox.run(["/bin/true"]).success
    sandbox.abort()


def test_leaving_the_block_drops_what_nobody_decided_about(tree: Path) -> None:
    before = state(tree)
    with box(tree, on_exit="defer") as sandbox:
        sandbox.run(["/bin/sh", "-c", EVERYTHING])
    assert state(tree) == before
    assert os.listdir(tree.parent / "storage") == []


def test_a_kept_branch_is_where_the_result_says(tree: Path) -> None:
    before = state(tree)
    result = run(tree, "echo new > a", on_exit="keep")
    assert state(tree) == before
    assert Path(result.branch, "upper", "a").read_text() == "new\n"


def test_a_conflict_applies_nothing_and_loses_nothing(tree: Path) -> None:
    sandbox = box(tree)
    script = "echo mine > a; echo mine > b; read go"
    process = sandbox.popen(["/bin/sh", "-c", script], stdin=-1)
    deadline = 200
    storage = tree.parent / "storage"
    while deadline and not list(storage.glob("*/upper/b")):
        deadline -= 1
        os.sched_yield()
        subprocess.run(["/bin/sleep", "0.02"], check=True)
    (tree / "a").write_text("theirs, meanwhile\n")
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.close()
    result = process.wait()
    assert not result.success
    assert "not committed" in result.error
    assert (tree / "a").read_text() == "theirs, meanwhile\n"
    assert (tree / "b").read_text() == "b\n"
    assert Path(result.branch, "upper", "a").read_text() == "mine\n"


def test_late_execution_is_refused_unless_named(tree: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    result = run(tree, "echo 'echo owned' > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit; echo ok > a")
    assert not (tree / ".git/hooks/pre-commit").exists()
    assert "not committed" in result.error
    assert any(change.late for change in result.changes)
    assert (tree / "a").read_text() == "a\n"


def test_programs_written_inside_run_inside(tree: Path) -> None:
    script = "cp /bin/echo own; printf '#!/bin/sh\\n./own from a script\\n' > s; chmod +x s; ./s"
    assert run(tree, script, on_exit="abort").stdout == b"from a script\n"


def test_git_and_tar_work_in_a_branch(tree: Path) -> None:
    script = """
export HOME=$PWD GIT_CONFIG_NOSYSTEM=1
git init -q repo && cd repo && git config user.email a@b && git config user.name n
for i in 1 2 3; do echo $i > f$i; git add . ; git commit -qm $i; done
git worktree add -q ../tree && git gc -q && git log --oneline | wc -l
cd .. && tar cf t.tar repo && mkdir out && tar xf t.tar -C out && diff -r repo out/repo && echo same
"""
    before = state(tree)
    result = run(tree, script, on_exit="abort")
    assert result.stdout.decode().split() == ["3", "same"], result
    assert state(tree) == before


def test_sqlite_with_a_write_ahead_log_works_in_a_branch(tree: Path) -> None:
    code = """
import sqlite3
c = sqlite3.connect("db"); c.execute("pragma journal_mode=wal"); c.execute("create table t(x)")
for i in range(200): c.execute("insert into t values (?)", (i,)); c.commit()
print(c.execute("select count(*) from t").fetchone()[0])
"""
    assert box(tree, on_exit="abort").run(["/usr/bin/python3", "-c", code]).stdout == b"200\n"


def test_the_branch_itself_is_out_of_reach(tree: Path) -> None:
    storage = tree.parent / "storage"
    result = run(tree, f"ls {storage}; echo x > {storage}/x; ls {storage}/*/upper", on_exit="abort")
    assert result.stdout == b""
    assert result.stderr.count(b"Permission denied") + result.stderr.count(b"No such file") >= 2


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"workdir": "/no/such/tree"}, "filesystem.workdir"),
        ({"fs_storage": "{tree}/inside"}, "inside"),
        ({"fs_writable": ["{tree}/.."]}, "behind its back"),
        ({"fs_mount": {"/mnt": "{tree}/.."}}, "behind its back"),
        ({"namespaces": "off", "supervisor": False}, "workdir .*needs the supervisor"),
    ],
)
def test_what_cannot_be_a_branch_is_refused_by_name(tree: Path, fields: dict[str, Any], text: str) -> None:
    def fill(value: Any) -> Any:
        if isinstance(value, list):
            return [fill(item) for item in value]
        if isinstance(value, dict):
            return {name: fill(item) for name, item in value.items()}
        return value.format(tree=tree) if isinstance(value, str) else value

    base = {**DEFAULTS, "fs_readable": SYSTEM, "workdir": str(tree), "fs_storage": str(tree.parent / "storage")}
    with pytest.raises(PolicyError, match=text):
        Sandbox(**{**base, **{name: fill(value) for name, value in fields.items()}}).run(["/bin/true"])


def test_thirty_branches_leave_nothing(tree: Path) -> None:
    run(tree, "echo 1 > a", on_exit="abort")
    fds = len(os.listdir("/proc/self/fd"))
    for number in range(30):
        assert run(tree, f"echo {number} > a; echo x > n{number}", on_exit="abort" if number % 2 else "commit").success
    assert len(os.listdir("/proc/self/fd")) == fds
    assert os.listdir(tree.parent / "storage") == []
    assert (tree / "a").read_text() == "28\n"


def test_a_read_only_mount_of_the_storage_is_no_danger(tree: Path) -> None:
    assert run(tree, "echo new > a", fs_mount_ro={"/mnt": str(tree.parent)}).success
    assert (tree / "a").read_text() == "new\n"


@pytest.mark.parametrize("end", ["", "exit 1", "sleep 60"])
def test_what_is_thrown_away_is_not_read(tree: Path, end: str) -> None:
    start = time.monotonic()
    result = box(tree, on_exit="abort").run(["/bin/sh", "-c", f"truncate -s 900M b1 b2 b3 b4 b5; {end}"], timeout=2)
    assert time.monotonic() - start < 6
    assert [(change.kind, change.path) for change in result.changes] == [("A", f"b{n}") for n in range(1, 6)]
    assert all(change.after is not None and not change.after.digest for change in result.changes)
    [small] = run(tree, "echo x > small", on_exit="abort").changes
    assert small.after is not None
    assert small.after.digest


def test_what_is_denied_stays_denied_in_a_branch(tree: Path) -> None:
    """Neither another name of it, nor a copy of the folder that it is in, nor what is made in its place."""
    (tree / "sub/key").write_text("secret\n")
    (tree / "plain").write_text("secret\n")
    os.link(tree / "plain", tree / "sub/alias")
    script = """
cat sub/key plain sub/alias; mv sub other; cat other/key other/alias; cp -r sub copy; cp -r other copy2; cat copy*/*
ln plain linked; cat linked; mv plain moved; cat moved; echo x > later; mv a later; mkdir -p later/x
ln -s plain l; cat l; cat b; ls
"""
    denied = [str(tree / name) for name in ("sub/key", "plain", "later")]
    assert run(tree, script, on_exit="abort").stdout.count(b"secret") > 8
    result = run(tree, script, on_exit="commit", fs_denied=denied)
    assert b"secret" not in result.stdout, result
    assert b"b\n" in result.stdout
    assert not (tree / "later").exists()
    assert (tree / "plain").read_text() == "secret\n"


def test_pr11_a_fifo_of_the_tree_is_the_branchs_own(tree: Path) -> None:
    """Who reads it outside hears nothing, what was written for somebody outside is not taken; inside it is a FIFO."""
    os.mkfifo(tree / "pipe")
    outside = os.open(tree / "pipe", os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(outside, b"mine")
        script = "(read -r x <pipe; echo got $x) & echo inside >pipe; wait"
        result = run(tree, script)
        assert result.stdout == b"got inside\n", result
        assert os.read(outside, 100) == b"mine"
        box_ = box(tree, on_exit="commit")
        assert box_.run(["/bin/sh", "-c", "(read -r x <pipe) & echo inside >pipe; wait"], timeout=60).success
        assert os.path.samestat(os.fstat(outside), os.stat(tree / "pipe"))  # nothing to commit, so it is not replaced
    finally:
        os.close(outside)


@pytest.mark.needs("root")  # nobody else makes devices
def test_fs22_a_device_in_the_tree_is_not_opened(tree: Path) -> None:
    """As on a mount without devices; Landlock would not see it, where the supervisor opens for the program."""
    try:
        os.mknod(tree / "zero", 0o20666, os.makedev(1, 5))
        os.close(os.open(tree / "zero", os.O_RDWR))
    except PermissionError:
        pytest.skip("no devices are made or opened here")
    for way_in in ("< zero", "> zero"):
        result = run(tree, f": {way_in}")
        assert b"ermission denied" in result.stderr, result


def test_inf_06_a_proc_mounted_below_the_tree_tells_nothing_of_the_host(tree: Path, way: str) -> None:
    """Where the supervisor opens a branch's files it could look into itself; on an overlay the mount is not there."""
    code = (
        "import os, sys; sys.path[:0] = sys.argv[4:]; from sandlock import Sandbox\n"
        "own = f'{sys.argv[1]}/proc/{os.getpid()}/environ'\n"
        "assert b'hunter2' in open(own, 'rb').read()\n"
        "box = Sandbox(workdir=sys.argv[1], fs_storage=sys.argv[2], namespaces=sys.argv[3], fs_readable=['/usr',\n"
        "              '-/bin', '-/lib', '-/lib64', '-/etc/ld.so.cache'], cwd=sys.argv[1], on_exit='abort')\n"
        "told = box.run(['/bin/sh', '-c', f'cat {own}; cat proc/self/environ; ls proc; cat a'], timeout=60)\n"
        "assert told.stdout == b'a\\n', told\n"
    )
    (tree / "proc").mkdir()
    words = [sys.executable, "-c", code, str(tree), str(tree.parent / "storage"), way, *sys.path]
    script = 'mount -t proc proc "$1/proc" || exit 77; shift; exec "$@"'
    rooted = ["unshare", *(["-r"] if os.geteuid() else []), "-m", "-p", "-f", "--mount-proc"]
    done = subprocess.run(
        [*rooted, "sh", "-c", script, "sh", str(tree), *words],
        env={**os.environ, "SECRET": "hunter2"}, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode == 77 or done.stderr.startswith(b"unshare"):
        lacks("user_namespace", "no /proc can be mounted here")
    assert done.returncode == 0, done.stderr.decode()
