"""Walks along random paths end where a walk with os.stat ends, and leave nothing open."""

from __future__ import annotations

import os
import stat
from errno import EACCES, ELOOP, ENAMETOOLONG
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandlock_sys.walk import Flag, Marks, Outcome, Walked, Walker
from sandlock_testkit.profiles import examples

NAMES = ["a", "b", "file", "link", "pipe", "absent", ".", "..", "", "x" * 255, "x" * 256, "\udcff"]
Seen = tuple[int, int, tuple[int, int], bytes, int]  # outcome, errno, identity, the component, whether it is the last


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("walks")
    for folder in ("a/a", "a/b", "b/a/b"):
        (root / folder).mkdir(parents=True)
        for name in ("file", "\udcff", "x" * 255):
            (root / folder / name).touch()
        (root / folder / "link").symlink_to("..")
        os.mkfifo(root / folder / "pipe")
    return root


def reference(root: Path, path: bytes, flags: int, marked: frozenset[tuple[int, int]]) -> Seen:
    """The same walk, by names and with the interpreter."""
    at = os.fsencode(root)
    found = os.lstat(at)
    identity = found.st_dev, found.st_ino
    if not flags & Flag.JUDGED and identity in marked:
        return Outcome.MARK, 0, identity, b"", 0
    parts = path.split(b"/")
    while parts and not parts[-1]:
        parts.pop()
    names = [name for name in parts if name]
    slash = path.endswith(b"/")
    for place, name in enumerate(names):
        last = place == len(names) - 1
        if last and flags & Flag.PARENT and name in (b".", b".."):
            return Outcome.END, 0, identity, name, 1
        if name == b".":
            continue
        if name == b".." and flags & Flag.STOP_UP:
            return Outcome.UP, 0, identity, name, int(last)
        at += b"/" + name
        try:
            found = os.lstat(at)
        except OSError as error:
            absent = isinstance(error, FileNotFoundError) and last
            return Outcome.ABSENT if absent else Outcome.ERROR, error.errno or 0, identity, name, int(last)
        identity = found.st_dev, found.st_ino
        stays = last and (flags & Flag.PARENT or (flags & Flag.NO_FOLLOW and not slash))
        if stat.S_ISLNK(found.st_mode) and not stays:
            return Outcome.LINK, 0, identity, name, int(last)
        if identity in marked:
            return Outcome.MARK, 0, identity, name, int(last)
        folder_wanted = not last or (slash and not flags & Flag.PARENT)
        if folder_wanted and not stat.S_ISDIR(found.st_mode):
            return Outcome.ERROR, 20, identity, name, int(last)
    dot = not names or names[-1] == b"."
    return Outcome.END, 0, identity, b"" if dot else names[-1], 1


def told(path: bytes, walked: Walked) -> Seen:
    directory, found, outcome, error, begin, end, device, inode, _, last = walked
    for fd in (directory, found):
        if fd >= 0:
            os.close(fd)
    return outcome, error, (device, inode), path[begin:end], last


paths = st.lists(st.sampled_from(NAMES), max_size=7).map(lambda names: os.fsencode("/".join(names)))
flags = st.sets(st.sampled_from([Flag.NO_FOLLOW, Flag.JUDGED, Flag.STOP_UP, Flag.PARENT])).map(sum)


@settings(max_examples=examples(400))
@given(path=paths, flags=flags, marked=st.sets(st.sampled_from(["", "a", "a/a", "a/a/file", "b/a", "b/a/b/link"])))
def test_a_walk_ends_where_the_interpreter_s_ends(root: Path, path: bytes, flags: int, marked: set[str]) -> None:
    """`root` is not above itself: its parents' names are not in the paths, and what is there is not looked at."""
    identities = frozenset((found.st_dev, found.st_ino) for found in (os.lstat(root / name) for name in marked))
    before = os.listdir("/proc/self/fd")
    start = os.open(root, os.O_PATH)
    try:
        walked = told(path, Walker().walk(start, path, int(flags), Marks(identities)))
        found = told(path, Walker().find(start, path, int(flags) & Flag.NO_FOLLOW, Marks(identities)))
    finally:
        os.close(start)
    assert os.listdir("/proc/self/fd") == before
    wanted = reference(root, path, int(flags), identities)
    assert walked[:2] == wanted[:2]
    if wanted[0] != Outcome.ERROR:
        assert walked[3:] == wanted[3:] or wanted[0] == Outcome.MARK
    if wanted[0] in (Outcome.END, Outcome.MARK, Outcome.LINK) and not flags & (Flag.PARENT | Flag.STOP_UP):
        assert walked[2] == wanted[2]
    if wanted[0] == Outcome.END and not flags & (Flag.PARENT | Flag.STOP_UP):
        assert found[0] in (Outcome.END, Outcome.MARK)
        assert found[2] == wanted[2]
    if wanted[:2] in ((Outcome.ERROR, ENAMETOOLONG), (Outcome.ERROR, EACCES)):
        assert found[:2] == wanted[:2]
    if wanted[0] == Outcome.LINK and not flags & Flag.PARENT:
        assert found[:2] == (Outcome.ERROR, ELOOP)
