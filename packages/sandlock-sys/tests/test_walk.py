"""A walk pins what it passes, stops where it was told to, and answers the kernel's errno."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from errno import ENAMETOOLONG, ENOENT, ENOTDIR
from pathlib import Path

import pytest

from sandlock_sys import inode
from sandlock_sys.errors import SyscallError
from sandlock_sys.walk import NO_MARKS, Flag, Marks, Outcome, Walked, Walker, climb, device_of


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.fd = os.open(root, os.O_PATH)
        self.walker = Walker()
        self.opened: list[int] = []

    def walk(self, path: bytes, flags: int = 0, marks: Marks = NO_MARKS) -> Walked:
        found = self.walker.walk(self.fd, path, flags, marks)
        self.opened += [fd for fd in found[:2] if fd >= 0]
        return found

    def find(self, path: bytes, flags: int = 0, marks: Marks = NO_MARKS) -> Walked:
        found = self.walker.find(self.fd, path, flags, marks)
        self.opened += [fd for fd in found[:2] if fd >= 0]
        return found

    def marks(self, *names: str) -> Marks:
        return Marks(identity(self.root / name) for name in names)


def identity(path: Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(b"content")
    (tmp_path / "a/link").symlink_to("b")
    made = Tree(tmp_path)
    yield made
    for fd in (made.fd, *made.opened):
        with suppress(OSError):
            os.close(fd)


def test_the_end_is_pinned_with_its_directory(tree: Tree) -> None:
    directory, found, outcome, _, begin, end, device, number, mode, last = tree.walk(b"//a/./b//file")
    assert outcome == Outcome.END
    assert (device, number) == identity(tree.root / "a/b/file")
    assert (b"//a/./b//file"[begin:end], last) == (b"file", 1)
    assert mode == os.stat(tree.root / "a/b/file").st_mode
    os.rename(tree.root / "a/b", tree.root / "moved")
    assert os.stat("file", dir_fd=directory).st_ino == os.fstat(found).st_ino


@pytest.mark.parametrize(
    ("path", "outcome", "error"),
    [
        (b"a/b/absent", Outcome.ABSENT, ENOENT),
        (b"a/b/absent/", Outcome.ABSENT, ENOENT),
        (b"a/absent/b", Outcome.ERROR, ENOENT),
        (b"a/b/file/", Outcome.ERROR, ENOTDIR),
        (b"a/b/file/x", Outcome.ERROR, ENOTDIR),
        (b"a/" + b"x" * 256, Outcome.ERROR, ENAMETOOLONG),
        (b"a/link", Outcome.LINK, 0),
        (b"a/link/c", Outcome.LINK, 0),
        (b"", Outcome.END, 0),
        (b"/", Outcome.END, 0),
        (b"a/b/../b/c/.", Outcome.END, 0),
    ],
)
def test_outcomes_are_the_kernels(tree: Tree, path: bytes, outcome: Outcome, error: int) -> None:
    assert tree.walk(path)[2:4] == (outcome, error)


def test_a_link_at_the_end_is_the_object_where_nothing_is_followed(tree: Tree) -> None:
    found = tree.walk(b"a/link", Flag.NO_FOLLOW)
    assert found[2] == Outcome.END
    assert inode.readlink(found[1]) == b"b"
    assert tree.walk(b"a/link/", Flag.NO_FOLLOW)[2] == Outcome.LINK  # a slash follows it
    assert tree.walk(b"a/link/", Flag.PARENT)[2] == Outcome.END  # not where it is to be removed


@pytest.mark.parametrize("path", [b"a/b/c", b"a/b/file", b"a/b/c/../file", b"a/b/x/../../b/file"])
def test_a_marked_directory_stops_the_walk_whatever_its_name_is(tree: Tree, path: bytes) -> None:
    (tree.root / "a/b/x").mkdir()
    marks = tree.marks("a/b")
    assert tree.walk(path)[2] == Outcome.END
    found = tree.walk(path, 0, marks)
    assert found[2] == Outcome.MARK
    assert found[6:8] == marks.identities[0]
    os.rename(tree.root / "a/b", tree.root / "a/other")
    assert tree.walk(path.replace(b"a/b", b"a/other", 1), 0, marks)[2] == Outcome.MARK


def test_the_start_is_judged_unless_it_was(tree: Tree) -> None:
    marks = tree.marks(".")
    assert tree.walk(b"a/b", 0, marks)[2] == Outcome.MARK
    assert tree.walk(b"a/b", Flag.JUDGED, marks)[2] == Outcome.END
    assert tree.walk(b"a/..", Flag.JUDGED, marks)[2] == Outcome.MARK


def test_dots_at_the_end_stay_for_who_removes_and_makes(tree: Tree) -> None:
    for name in (b".", b".."):
        path = b"a/b/" + name
        found = tree.walk(path, Flag.PARENT)
        assert (found[2], path[found[4] : found[5]], found[1]) == (Outcome.END, name, -1)
        assert os.fstat(found[0]).st_ino == (tree.root / "a/b").stat().st_ino


def test_find_is_the_walk_in_one_step_and_sees_marks_at_the_end(tree: Tree) -> None:
    for path in (b"a/b/file", b"/a/b/c/", b"a/b/absent", b"a/b/file/", b""):
        walked, found = tree.walk(path), tree.find(path)
        if walked[2] == Outcome.END:
            assert found[6:9] == walked[6:9]
        assert found[3] == walked[3]
    assert tree.find(b"a/b/file", 0, tree.marks("a/b/file"))[2] == Outcome.MARK
    assert tree.find(b"a/link")[2] == Outcome.ERROR
    assert tree.find(b"a/link", Flag.NO_FOLLOW)[2] == Outcome.END


def test_climbing_finds_the_nearest_mark_above(tree: Tree) -> None:
    c = os.open(tree.root / "a/b/c", os.O_PATH)
    tree.opened.append(c)
    assert climb(c, tree.marks("a", "a/b")) == identity(tree.root / "a/b")
    assert climb(c, tree.marks("a/b/c")) == identity(tree.root / "a/b/c")
    assert climb(c, tree.marks("a/b/file", "a/link")) is None


def test_climbing_does_not_end_below_a_mount_that_shows_its_own_parent(tree: Tree) -> None:
    assert climb(tree.fd, Marks([identity(Path("/"))])) == identity(Path("/"))


def test_nothing_is_left_open(tree: Tree) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (b"a/b/file/x", b"a/absent/x", b"a/b/file/", b"x" * 300):
        tree.walk(path)
        tree.find(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_structures_are_the_kernels(tree: Tree) -> None:
    file = tree.walk(b"a/b/file")[1]
    expected = os.stat(tree.root / "a/b/file")
    assert struct.unpack("=QQ", inode.stat(file)[:16]) == (expected.st_dev, expected.st_ino)
    assert struct.unpack_from("=Q", inode.statx(file, 0, 0x7FF), 40) == (7,)  # stx_size, linux/stat.h
    assert len(inode.statfs(file)) == 120
    device = os.makedev(0x12345, 0xABCDE)
    stat = inode.renumber_stat(inode.stat(file), device, 1 << 62 | 9)
    statx = inode.renumber_statx(inode.statx(file, 0, 0x7FF), device, 1 << 62 | 9)
    assert struct.unpack("=QQ", stat[:16]) == (device, 1 << 62 | 9)
    assert struct.unpack_from("=Q", statx, 32) == (1 << 62 | 9,)
    assert struct.unpack_from("=II", statx, 136) == (0x12345, 0xABCDE)
    assert stat[16:] == inode.stat(file)[16:]
    inode.access(file, os.R_OK)
    with pytest.raises(SyscallError):
        inode.access(file, 64)
    listed = os.open(tree.root / "a", os.O_RDONLY)
    tree.opened.append(listed)
    assert b"link\0" in inode.getdents(listed, 4096)
    assert inode.getdents(listed, 4096) == b""


def test_the_device_of_an_fd_is_that_of_stat(tree: Tree) -> None:
    fds = [tree.fd, *(os.open(path, os.O_PATH) for path in ("/proc/self", "/dev/null", tree.root / "a"))]
    try:
        assert [device_of(fd) for fd in fds] == [os.fstat(fd).st_dev for fd in fds]
        assert len({device_of(fd) for fd in fds}) > 1
    finally:
        for fd in fds[1:]:
            os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        device_of(-1)
