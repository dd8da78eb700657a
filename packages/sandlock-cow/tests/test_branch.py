"""What single operations promise: identity, paths, listings, space, life."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys

import pytest
from cow_lab import Lab, names, read, write

from sandlock_cow import Branch, Layer, State, list_preserved

pytestmark = pytest.mark.usefixtures("leaks")


def test_a_lookup_tells_the_layer(lab: Lab) -> None:
    branch = lab.branch()
    write(branch, b"new", b"")
    branch.unlink(b"other")
    layers = {name: branch.lookup(name).layer for name in (b"new", b"file", b"other", b"nothing")}
    assert layers == {b"new": Layer.UPPER, b"file": Layer.LOWER, b"other": Layer.WHITEOUT, b"nothing": Layer.ABSENT}
    found = branch.lookup(b"directory/one")
    fd = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=found.directory)
    assert os.read(fd, 10) == b"one"
    os.close(fd)


def test_a_file_keeps_its_identity_when_it_is_copied_up(lab: Lab) -> None:
    branch = lab.branch()
    for path in (b"file", b"directory", b"link", b"linked"):
        before = branch.identity(branch.stat(path))
        branch.copy_up(path)
        assert branch.lookup(path).layer is Layer.UPPER
        assert branch.identity(branch.stat(path)) == before, path
    assert branch.identity(branch.stat(b"directory/linked too")) == branch.identity(branch.stat(b"linked"))
    for entry in branch.listdir(b""):
        assert entry.inode == branch.identity(branch.stat(entry.name))[1], entry


def test_a_descriptor_and_a_path_have_one_identity(lab: Lab) -> None:
    branch = lab.branch()
    fd = branch.open(b"file", os.O_RDWR)
    assert branch.identity(os.fstat(fd)) == branch.identity(branch.stat(b"file"))
    os.close(fd)


def test_a_real_path_is_told_by_its_place_in_the_branch(lab: Lab) -> None:
    branch = lab.branch()
    for flags in (os.O_RDONLY, os.O_RDWR):
        fd = branch.open(b"directory/one", flags)
        assert branch.inside(os.readlink(b"/proc/self/fd/%d" % fd)) == b"directory/one"
        os.close(fd)
    assert branch.inside(os.fsencode(lab.lower)) == b""
    assert branch.inside(os.fsencode(lab.lower) + b"x/file") is None


def test_w57_a_new_directory_and_file_get_the_mode_that_was_asked_for(lab: Lab) -> None:
    branch = lab.branch()
    umask = os.umask(0o077)
    try:
        branch.mkdir(b"open", 0o1777)
        write(branch, b"shared", b"", mode=0o666)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(branch.stat(b"open").st_mode) == 0o1777
    assert stat.S_IMODE(branch.stat(b"shared").st_mode) == 0o666


def test_w54_rename_knows_its_flags(lab: Lab) -> None:
    branch = lab.branch()
    with pytest.raises(FileExistsError):
        branch.rename(b"file", b"other", 1)
    branch.rename(b"file", b"directory", 2)
    assert read(branch, b"directory") == b"file"
    assert names(branch, b"file") == [b"inner", b"linked too", b"one"]
    for flags in (3, 4, 8):
        with pytest.raises(OSError, match="Invalid argument"):
            branch.rename(b"other", b"x", flags)


def test_a_removed_directory_made_again_is_empty(lab: Lab) -> None:
    branch = lab.branch()
    with pytest.raises(OSError, match="not empty"):
        branch.rmdir(b"directory/inner")
    branch.unlink(b"directory/inner/two")
    branch.rmdir(b"directory/inner")
    branch.mkdir(b"directory/inner", 0o755)
    assert names(branch, b"directory/inner") == []
    assert (lab.lower / "directory" / "inner" / "two").read_text() == "two"


def test_a_new_file_with_a_mode_that_forbids_it_is_open_all_the_same(lab: Lab) -> None:
    branch = lab.branch()
    ready = branch.prepare_open(b"sealed", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o400)
    assert ready.fd >= 0
    assert os.write(ready.fd, b"x") == 1
    os.close(ready.fd)


def test_reading_changes_nothing_in_the_tree(lab: Lab) -> None:
    before = lab.fingerprint()
    with lab.branch() as branch:
        for entry in branch.listdir(b""):
            branch.stat(entry.name)
        assert read(branch, b"file") == b"file"
        assert branch.changes() == ()
    assert lab.fingerprint() == before


def test_without_a_quota_usage_is_counted_and_nothing_refused(lab: Lab) -> None:
    branch = lab.branch()
    empty = branch.usage()
    write(branch, b"new", b"x" * 10_000)
    full = branch.usage()
    assert full.entries == empty.entries + 1
    assert full.allocated - empty.allocated >= 10_000
    assert full.free is None
    branch.reserve(1 << 60)


def test_a_process_that_died_leaves_a_branch_to_resume_or_drop(lab: Lab) -> None:
    script = """
import os, sys
from sandlock_cow import Branch
branch = Branch(sys.argv[1], storage=sys.argv[2])
branch.unlink(b"other")
open(branch.path + "/work/half", "w").close()
os.kill(os.getpid(), 9)
"""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script, str(lab.lower), str(lab.storage)],
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == -signal.SIGKILL
    first, second = list_preserved(str(lab.storage))
    assert {first.state, second.state} == {State.LEFT}
    branch = first.resume()
    assert os.listdir(branch.path + "/work") == []
    assert [change.path for change in branch.changes()] == ["other"]
    branch.discard()
    lab.lower.rename(lab.root / "gone")
    second.discard()
    assert os.listdir(lab.storage) == []


def test_the_default_storage_is_the_state_folder(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(lab.root / "state"))
    with Branch(str(lab.lower)) as branch:
        assert branch.path.startswith(str(lab.root / "state" / "sandlock" / "branches") + "/")


def test_an_attribute_of_another_overlay_is_not_shown(lab: Lab) -> None:
    os.setxattr(lab.lower / "file", "user.overlay.origin", b"x")
    os.setxattr(lab.lower / "file", "user.mine", b"x")
    branch = lab.branch()
    assert branch.listxattr(b"file") == (b"user.mine",)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        branch.getxattr(b"file", b"user.overlay.origin")
    assert caught.value.errno == errno.ENODATA


def test_many_directories_take_a_bounded_number_of_descriptors(lab: Lab) -> None:
    for index in range(400):
        (lab.lower / f"d{index}").mkdir()
    branch = lab.branch()
    for index in range(400):
        write(branch, b"d%d/file" % index, b"x")
    assert len(os.listdir("/proc/self/fd")) < 400
    assert len(branch.changes()) == 400
