"""Random operations: a branch answers and looks like the kernel's own file systems, and commits to the same.

As root against a real overlayfs mount, as anybody against a plain copy of the tree. A failure shrinks to a short list
of steps that the message shows.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from cow_lab import clear, fingerprint
from cow_oracle import Overlay, Plain, Served, Step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandlock_cow import Branch, overlay
from sandlock_testkit.profiles import examples

NAMES = [b"a", b"b", b"c", b"\xff\n"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
MODES = st.sampled_from([0o755, 0o700, 0o644, 0o600, 0o444, 0o555, 0o1777])
FLAGS = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_WRONLY,
        os.O_RDWR | os.O_APPEND,
        os.O_RDWR | os.O_CREAT,
        os.O_WRONLY | os.O_CREAT | os.O_EXCL,
        os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
        os.O_RDONLY | os.O_DIRECTORY,
        os.O_WRONLY | os.O_TRUNC,
        os.O_PATH,
    ]
)
XATTRS = st.sampled_from([b"user.one", b"user.overlay.opaque"])

STEPS = st.one_of(
    st.tuples(st.just("open"), PATHS, FLAGS, MODES, st.sampled_from([b"", b"data", b"more data"])),
    st.tuples(st.just("mkdir"), PATHS, MODES),
    st.tuples(st.just("mknod"), PATHS, st.sampled_from([stat.S_IFIFO | 0o644, stat.S_IFSOCK | 0o600, 0o640])),
    st.tuples(st.just("symlink"), st.sampled_from([b"nowhere", b"a"]), PATHS),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("unlink"), PATHS),
    st.tuples(st.just("rmdir"), PATHS),
    st.tuples(st.just("rename"), PATHS, PATHS, st.sampled_from([0, 0, 0, 1, 2])),
    st.tuples(st.just("chmod"), PATHS, MODES),
    st.tuples(st.just("utime"), PATHS, st.integers(-(10**9), 10**9).map(lambda number: number * 10**9)),
    st.tuples(st.just("truncate"), PATHS, st.sampled_from([0, 3, 5000])),
    st.tuples(st.just("setxattr"), PATHS, XATTRS, st.sampled_from([b"y", b""])),
    st.tuples(st.just("removexattr"), PATHS, XATTRS),
    st.tuples(st.just("listdir"), PATHS),
    st.tuples(st.just("stat"), PATHS),
)
SEQUENCES = st.lists(STEPS, min_size=1, max_size=40)


def grow(root: Path) -> None:
    """The tree that every sequence starts from."""
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "a").write_text("a in a")
    (root / "a" / "b" / "a").write_text("a in b in a")
    (root / "a" / "b" / "c").mkdir()
    (root / "b").write_text("b")
    os.link(root / "b", root / "a" / "c")
    (root / "c").mkdir(mode=0o755)
    (root / os.fsdecode(b"\xff\n")).symlink_to("nowhere")
    os.link(root / os.fsdecode(b"\xff\n"), root / "c" / "b", follow_symlinks=False)
    os.setxattr(root / "b", "user.one", b"1")


@contextmanager
def scratch() -> Iterator[Path]:
    # Not tmp_path: hypothesis runs many examples in one test.
    root = Path(tempfile.mkdtemp(prefix="cow-differential-", dir="/var/tmp"))
    # A branch uses modes as they are given; so must the other side.
    umask = os.umask(0)
    try:
        yield root
    finally:
        os.umask(umask)
        clear(root)


def compare(served: Served, plain: Plain, steps: list[Step]) -> None:
    done = []
    for step in steps:
        done.append(step)
        ours, theirs = served.do(step), plain.do(step)
        assert ours == theirs, f"after {done!r}: the branch answered {ours!r}, the kernel {theirs!r}"
    ours, theirs = served.view(), plain.view()
    differing = [(path, ours.get(path), theirs.get(path)) for path in sorted({*ours, *theirs})]
    differing = [row for row in differing if row[1] != row[2]]
    assert not differing, f"after {done!r}: {differing!r}"


@pytest.mark.needs("root")  # only root may mount an overlay that renames directories
@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=SEQUENCES)
def test_fs19_a_branch_behaves_like_a_real_overlay(steps: list[Step]) -> None:
    with scratch() as root:
        (root / "lower").mkdir()
        grow(root / "lower")
        mounted = Overlay(root / "lower", root / "oracle")
        try:
            with Branch(str(root / "lower"), storage=str(root / "storage")) as branch:
                compare(Served(branch), Plain(mounted.root), steps)
        finally:
            mounted.close()


@settings(max_examples=examples(120), deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=SEQUENCES)
def test_fs19_a_branch_behaves_like_a_directory_and_its_commit_equals_a_bare_run(steps: list[Step]) -> None:
    as_in_a_directory(steps)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=SEQUENCES)
def test_the_same_where_mknod_refuses_whiteouts(steps: list[Step]) -> None:
    with patch.object(overlay, "writes_device_whiteouts", lambda _: False):
        as_in_a_directory(steps)


def as_in_a_directory(steps: list[Step]) -> None:
    with scratch() as root:
        lower, bare = root / "lower", root / "bare"
        lower.mkdir()
        grow(lower)
        shutil.copytree(lower, bare, symlinks=True)
        (bare / "a" / "c").unlink()
        os.link(bare / "b", bare / "a" / "c")
        (bare / "c" / "b").unlink()
        os.link(bare / os.fsdecode(b"\xff\n"), bare / "c" / "b", follow_symlinks=False)
        before = fingerprint(lower)
        branch = Branch(str(lower), storage=str(root / "storage"))
        compare(Served(branch), Plain(bare), steps)
        assert fingerprint(lower) == before, "a branch may not touch the real tree"
        branch.commit(allow_late=[""])
        assert Plain(lower).view() == Plain(bare).view(), f"after the commit of {steps!r}"
        assert os.listdir(root / "storage") == []
