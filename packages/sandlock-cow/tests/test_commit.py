"""Commit: all or nothing, part by part, refused when the tree changed or when something would run later."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from cow_lab import Lab, names, read, write

from sandlock_cow import Branch, BranchConflictError, BranchError, BranchLateExecutionError, renames

pytestmark = pytest.mark.usefixtures("leaks")


def settle() -> None:
    """Let the clock of change times tick."""
    time.sleep(0.02)


def test_w58_a_commit_replaces_and_never_writes_in_place(lab: Lab) -> None:
    reader = os.open(lab.lower / "file", os.O_RDONLY)
    branch = lab.branch()
    write(branch, b"file", b"new")
    branch.commit()
    assert (lab.lower / "file").read_text() == "new"
    assert os.pread(reader, 10, 0) == b"file", "who had the old file open still reads it whole"
    os.close(reader)


def test_commit_leaves_no_litter_and_removes_the_storage(lab: Lab) -> None:
    branch = lab.branch()
    write(branch, b"file", b"new")
    branch.rename(b"directory", b"moved")
    branch.commit()
    assert sorted(path.name for path in lab.lower.rglob("*") if path.name.startswith(".")) == []
    assert os.listdir(lab.storage) == []
    assert branch.closed


def test_discard_leaves_the_tree_as_it_was_times_included(lab: Lab) -> None:
    before = lab.fingerprint()
    branch = lab.branch()
    write(branch, b"file", b"new")
    branch.chmod(b"directory", 0o700)
    branch.unlink(b"directory/one")
    branch.rename(b"directory", b"elsewhere")
    branch.setxattr(b"other", b"user.x", b"1")
    assert len(branch.changes()) > 5
    branch.discard()
    assert lab.fingerprint() == before
    assert os.listdir(lab.storage) == []


def test_changes_tell_additions_modifications_and_removals(lab: Lab) -> None:
    branch = lab.branch()
    write(branch, b"new", b"n")
    write(branch, b"file", b"changed")
    branch.unlink(b"link")
    branch.chmod(b"other", 0o600)
    shown = {change.path: (change.kind, change.content_unchanged) for change in branch.changes()}
    assert shown == {"new": ("A", False), "file": ("M", False), "link": ("D", False), "other": ("M", True)}


def test_w59_a_file_that_was_opened_and_left_alone_is_no_change(lab: Lab) -> None:
    branch = lab.branch()
    os.close(branch.open(b"file", os.O_RDWR))
    with pytest.raises(OSError, match="Not a directory"):
        branch.rename(b"other", b"file/x")
    assert branch.changes() == ()


def test_renames_are_found_by_content(lab: Lab) -> None:
    branch = lab.branch()
    branch.rename(b"directory", b"moved")
    assert ("directory/one", "moved/one") in renames(branch.changes())


@pytest.mark.parametrize(
    "late", [b".git/hooks/pre-commit", b".bashrc", b"sub/.git/config", b".github/workflows/ci.yml"]
)
def test_what_runs_later_must_be_named(lab: Lab, late: bytes) -> None:
    branch = lab.branch()
    above = b""
    for part in late.split(b"/")[:-1]:
        above = above + b"/" + part if above else part
        branch.mkdir(above, 0o755)
    write(branch, late, b"evil")
    write(branch, b"file", b"new")
    assert [change.path for change in branch.changes() if change.late] == [os.fsdecode(late)]
    with pytest.raises(BranchLateExecutionError):
        branch.commit()
    assert (lab.lower / "file").read_text() == "file", "nothing was applied"
    branch.commit(allow_late=[late])
    assert (lab.lower / os.fsdecode(late)).read_text() == "evil"


def test_fs22_a_new_set_user_id_program_must_be_named(lab: Lab) -> None:
    branch = lab.branch()
    write(branch, b"tool", b"#!/bin/sh\n", mode=0o755)
    branch.chmod(b"tool", 0o4755)
    with pytest.raises(BranchLateExecutionError):
        branch.commit()
    branch.commit(["tool"])
    assert stat.S_IMODE((lab.lower / "tool").stat().st_mode) == 0o4755


def test_a_part_can_be_committed_and_the_rest_later(lab: Lab) -> None:
    branch = lab.branch()
    write(branch, b"file", b"1")
    write(branch, b"other", b"2")
    branch.mkdir(b"new", 0o755)
    write(branch, b"new/x", b"x")
    write(branch, b"new/y", b"y")
    branch.unlink(b"link")
    branch.commit(["file", "new/x", "link"])
    assert (lab.lower / "file").read_text() == "1"
    assert (lab.lower / "other").read_text() == "other"
    assert os.listdir(lab.lower / "new") == ["x"]
    assert not os.path.lexists(lab.lower / "link")
    assert [change.path for change in branch.changes()] == ["new/y", "other"]
    assert read(branch, b"new/x") == b"x"
    write(branch, b"file", b"again")
    branch.commit()
    assert (lab.lower / "file").read_text() == "again"
    assert sorted(os.listdir(lab.lower / "new")) == ["x", "y"]


def outside_changes(lower: Path) -> None:
    (lower / "file").write_text("outside")


def outside_touches_with_the_old_time(lower: Path) -> None:
    found = (lower / "file").stat()
    (lower / "file").write_text("file"[::-1])
    os.utime(lower / "file", ns=(found.st_atime_ns, found.st_mtime_ns))


def outside_removes(lower: Path) -> None:
    (lower / "file").unlink()


def outside_replaces(lower: Path) -> None:
    (lower / "temporary").write_text("file")
    (lower / "temporary").rename(lower / "file")


def outside_makes_what_the_branch_made(lower: Path) -> None:
    (lower / "made").write_text("outside")


def outside_fills_a_removed_directory(lower: Path) -> None:
    (lower / "directory" / "inner" / "precious").write_text("outside")


OUTSIDE = [
    outside_changes,
    outside_touches_with_the_old_time,
    outside_removes,
    outside_replaces,
    outside_makes_what_the_branch_made,
    outside_fills_a_removed_directory,
]


@pytest.mark.parametrize("outside", OUTSIDE)
def test_w58_a_tree_that_changed_meanwhile_is_a_conflict_and_nothing_is_applied(lab: Lab, outside: object) -> None:
    assert callable(outside)
    branch = lab.branch()
    write(branch, b"file", b"mine")
    write(branch, b"made", b"mine")
    write(branch, b"other", b"mine")
    branch.unlink(b"directory/inner/two")
    branch.rmdir(b"directory/inner")
    settle()
    outside(lab.lower)
    before = lab.fingerprint()
    with pytest.raises(BranchConflictError) as caught:
        branch.commit()
    assert len(caught.value.conflicts) == 1, caught.value.conflicts
    assert lab.fingerprint() == before
    assert read(branch, b"other") == b"mine", "nothing of the branch is lost"


def test_a_change_outside_before_the_branch_looked_is_no_conflict(lab: Lab) -> None:
    branch = lab.branch()
    settle()
    (lab.lower / "file").write_text("earlier")
    (lab.lower / "untouched").write_text("outside")
    write(branch, b"file", b"+", os.O_APPEND)
    branch.commit()
    assert (lab.lower / "file").read_text() == "earlier+"
    assert (lab.lower / "untouched").read_text() == "outside"


def test_fs21_a_parent_replaced_by_a_link_is_a_conflict_and_leads_nowhere(lab: Lab) -> None:
    outside = lab.root / "outside"
    outside.mkdir()
    (outside / "one").write_text("precious")
    branch = lab.branch()
    write(branch, b"directory/one", b"mine")
    (lab.lower / "directory").rename(lab.lower / "away")
    (lab.lower / "directory").symlink_to(outside)
    with pytest.raises(BranchError):
        branch.commit()
    assert (outside / "one").read_text() == "precious"
    assert os.listdir(outside) == ["one"]


def test_a_failed_staging_undoes_itself(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    branch = lab.branch()
    write(branch, b"file", b"1")
    write(branch, b"directory/one", b"2")
    before = lab.fingerprint()
    from sandlock_cow import copying

    calls = []
    copy = copying.copy_data

    def fail(source: int, target: int, size: int) -> None:
        calls.append(size)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        copy(source, target, size)

    monkeypatch.setattr(copying, "copy_data", fail)
    with pytest.raises(OSError, match="No space"):
        branch.commit()
    assert lab.fingerprint() == before
    monkeypatch.undo()
    branch.commit()
    assert (lab.lower / "directory" / "one").read_text() == "2"


def test_hard_links_sparse_files_modes_times_and_attributes_survive_both_ways(lab: Lab) -> None:
    sparse = lab.lower / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"middle")
    os.setxattr(sparse, "user.kept", b"yes")
    os.utime(sparse, ns=(10**18, 10**18))
    sparse.chmod(0o640)
    branch = lab.branch()
    branch.copy_up(b"sparse")
    found = branch.stat(b"sparse")
    assert (found.st_size, found.st_mtime_ns, stat.S_IMODE(found.st_mode)) == (1 << 30, 10**18, 0o640)
    assert found.st_blocks * 512 < 1 << 20
    assert branch.getxattr(b"sparse", b"user.kept") == b"yes"
    write(branch, b"linked", b"both", os.O_TRUNC)
    assert read(branch, b"directory/linked too") == b"both"
    branch.chmod(b"sparse", 0o600)
    branch.commit()
    assert (lab.lower / "sparse").stat().st_blocks * 512 < 1 << 20
    assert (lab.lower / "sparse").stat().st_mtime_ns == 10**18
    assert os.path.samefile(lab.lower / "linked", lab.lower / "directory" / "linked too")
    assert (lab.lower / "linked").read_text() == "both"


def test_access_control_lists_survive_both_ways_and_are_inherited(lab: Lab) -> None:
    kinds = ((1, 6, -1), (2, 4, 1234), (4, 4, -1), (16, 4, -1), (32, 0, -1))  # a named user among the usual classes
    wanted = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in kinds)  # posix_acl_xattr.h
    access, default = "system.posix_acl_access", "system.posix_acl_default"
    try:
        os.setxattr(lab.lower / "file", access, wanted)
        os.setxattr(lab.lower / "directory", default, wanted)
    except OSError:
        pytest.skip("this file system has no access control lists")
    branch = lab.branch()
    write(branch, b"file", b"new")
    write(branch, b"directory/made", b"new")
    branch.setxattr(b"directory", b"user.x", b"1")
    for name in (b"file", b"directory/made"):
        assert branch.getxattr(name, access.encode()) == wanted
    branch.commit()
    assert (lab.lower / "file").read_text() == "new"
    for path in ("file", "directory/made"):
        assert os.getxattr(lab.lower / path, access) == wanted
    assert os.getxattr(lab.lower / "directory", default) == wanted


def test_a_link_to_an_unchanged_file_is_a_link_after_the_commit(lab: Lab) -> None:
    branch = lab.branch()
    branch.link(b"file", b"second name")
    inode = (lab.lower / "file").stat().st_ino
    branch.commit()
    assert (lab.lower / "second name").stat().st_ino == inode == (lab.lower / "file").stat().st_ino


def test_progress_reaches_its_end(lab: Lab) -> None:
    branch = lab.branch()
    write(branch, b"file", b"new")
    seen: list[tuple[int, int]] = []
    branch.commit(progress=lambda done, whole: seen.append((done, whole)))
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_fs21_parents_swapped_for_links_while_copying_up_and_committing_reach_nothing_outside(lab: Lab) -> None:
    outside = lab.root / "outside"
    outside.mkdir()
    (outside / "one").write_text("precious")
    secret = outside / "one"
    stop = threading.Event()
    link, real, away = lab.lower / "link away", lab.lower / "directory", lab.lower / "away"
    link.symlink_to(outside)
    flips = 0

    def flip() -> None:
        nonlocal flips
        while not stop.is_set():
            real.rename(away)
            link.rename(real)
            real.rename(link)
            away.rename(real)
            flips += 1

    thread = threading.Thread(target=flip)
    thread.start()
    tries = wins = 0
    deadline = time.monotonic() + 8
    try:
        while tries < 20_000 and time.monotonic() < deadline:
            tries += 1
            with lab.branch() as branch:
                for action in (
                    lambda b=branch: write(b, b"directory/one", b"evil", os.O_TRUNC),
                    lambda b=branch: write(b, b"directory/new", b"evil"),
                    lambda b=branch: b.commit(),
                ):
                    try:
                        action()
                    except (OSError, BranchError):
                        wins += 1
            for name in ("one", "new"):
                try:
                    (real / name).lstat()
                except OSError:
                    continue
    finally:
        stop.set()
        thread.join()
    assert flips > 100, "the attacker had no turn"
    assert secret.read_text() == "precious"
    assert os.listdir(outside) == ["one"]


def test_names_of_any_bytes_are_committed(lab: Lab) -> None:
    branch = lab.branch()
    odd = [b"\xff\xfe", b"new\nline", b"%s", b"*", "\u202eabc".encode(), b".wh.file", b" "]
    for name in odd:
        write(branch, name, name)
    assert set(odd) <= set(names(branch))
    branch.commit()
    assert set(odd) <= set(os.listdir(os.fsencode(lab.lower)))


def test_fs22_a_bare_repository_is_known_by_its_head(lab: Lab) -> None:
    branch = lab.branch()
    for name in (b"plain", b"store", b"store/hooks"):
        branch.mkdir(name, 0o755)
    for name in (b"plain/config", b"store/HEAD", b"store/config", b"store/hooks/update", b"store/hooks/update.sample"):
        write(branch, name, b"x")
    assert [change.path for change in branch.changes() if change.late] == ["store/config", "store/hooks/update"]
    with pytest.raises(BranchLateExecutionError):
        branch.commit()


def test_a_huge_file_costs_nothing_to_list(lab: Lab) -> None:
    branch = lab.branch()
    write(branch, b"big", b"x")
    write(branch, b"small", b"x")
    branch.truncate(b"big", 1 << 36)
    told = {change.path: change.after for change in branch.changes()}
    assert told["small"] is not None
    assert len(told["small"].digest) == 64
    assert told["big"] is not None
    assert (told["big"].size, told["big"].digest) == (1 << 36, "")
    assert all(change.after is None or not change.after.digest for change in branch.changes(limit=100))


_SHARED = "/dev/shm"


def _as_ordinary_user(code: Callable[[], None]) -> None:
    """Run `code` in a child that is not root; what it raises fails the test."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            code()
            status = 0
        except BaseException:  # noqa: BLE001 - told here: the child must not go on as a second pytest
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(os.stat(_SHARED).st_uid != 0 or not os.access(_SHARED, os.W_OK), reason=f"{_SHARED} is not root's")
def test_a_directory_of_somebody_elses_is_committed_to_and_is_no_change_itself() -> None:
    name = f"sandlock-{os.getpid()}-{time.monotonic_ns()}"

    def work() -> None:
        storage = tempfile.mkdtemp(dir="/tmp")
        try:
            branch = Branch(_SHARED, storage=storage)
            write(branch, name.encode(), b"new")
            assert [change.path for change in branch.changes()] == [name]
            # Modes and times of the directory are not ours to set: that stops no commit.
            assert [change.path for change in branch.commit()] == [name]
            assert Path(_SHARED, name).read_bytes() == b"new"
            branch = Branch(_SHARED, storage=storage)
            branch.unlink(name.encode())
            branch.commit()
            assert not Path(_SHARED, name).exists()
        finally:
            shutil.rmtree(storage)

    try:
        _as_ordinary_user(work)
    finally:
        Path(_SHARED, name).unlink(missing_ok=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a file of somebody else's takes root to make")
def test_a_file_of_somebody_elses_is_refused_by_name_and_the_branch_can_be_discarded() -> None:
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o777)  # noqa: S103 - for somebody else to write
    Path(folder, "theirs").write_text("old")
    os.chmod(f"{folder}/theirs", 0o666)  # noqa: S103 - as above

    def work() -> None:
        storage = tempfile.mkdtemp(dir="/tmp")
        try:
            branch = Branch(folder, storage=storage)
            write(branch, b"theirs", b"new")
            with pytest.raises(BranchError, match="'theirs' belongs to user 0"):
                branch.commit()
            assert sorted(os.listdir(folder)) == ["theirs"]
            branch.keep()
            Branch.resume(branch.path).discard()
            assert os.listdir(storage) == []
        finally:
            shutil.rmtree(storage)

    try:
        _as_ordinary_user(work)
        assert Path(folder, "theirs").read_text() == "old"
    finally:
        shutil.rmtree(folder)
