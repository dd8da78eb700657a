"""Patches: `git apply` makes of the real tree what the branch shows, whatever is in it; no content takes long."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from cow_lab import Lab, read, write

from sandlock_cow import Branch, patch
from sandlock_cow.line_diff import edits, hunks

pytestmark = pytest.mark.usefixtures("leaks")


def rebuilt(old: list[bytes], new: list[bytes]) -> list[bytes]:
    """What `old` becomes by its edits; they are in order, and an equal line is between any two."""
    made, at = [], 0
    for a0, a1, b0, b1 in edits(old, new):
        assert at <= a0 <= a1 and (a1 > a0 or b1 > b0)
        made += old[at:a0] + new[b0:b1]
        at = a1
    return made + old[at:]


@pytest.mark.parametrize("seed", range(20))
def test_the_edits_make_the_new_side_of_the_old_one(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    for _ in range(50):
        words = [b"%d\n" % number for number in range(chance.choice((2, 9, 60)))]
        old = [chance.choice(words) for _ in range(chance.randrange(40))]
        new = [line for line in old if chance.random() < 0.8]
        for _ in range(chance.randrange(4)):
            new.insert(chance.randrange(len(new) + 1), chance.choice(words))
        assert rebuilt(old, new) == new
        assert not edits(old, old)


def test_two_far_changes_of_a_long_file_are_two_short_hunks() -> None:
    old = [b"line %d\n" % number for number in range(5000)]
    new = [*old[:10], b"changed\n", *old[11:4000], *old[4001:]]
    lines = list(hunks(old, new))
    assert [line for line in lines if line.startswith(b"@@")] == [b"@@ -8,7 +8,7 @@\n", b"@@ -3998,7 +3998,6 @@\n"]
    assert [line for line in lines if line[:1] in b"+-"] == [b"-line 10\n", b"+changed\n", b"-line 4000\n"]


@pytest.mark.parametrize("kind", ["same lines", "two lines", "shuffled", "shifted"])
def test_no_content_takes_long(kind: str) -> None:
    chance = random.Random(1)  # noqa: S311
    size = 200_000
    old, new = {
        "same lines": ([b"x\n"] * size, [b"x\n"] * (size - 7)),
        "two lines": ([chance.choice((b"x\n", b"y\n")) for _ in range(size)], [b"y\n", b"x\n"] * (size // 2)),
        "shuffled": ([b"%d\n" % number for number in range(size)], [b"%d\n" % (n * 7919 % size) for n in range(size)]),
        "shifted": ([b"%d\n" % (n % 500) for n in range(size)], [b"%d\n" % ((n + 250) % 500) for n in range(size)]),
    }[kind]
    began = time.process_time()
    assert rebuilt(old, new) == new
    assert time.process_time() - began < 20


@pytest.mark.needs("command:git")
def test_git_apply_makes_of_the_tree_what_the_branch_shows(lab: Lab) -> None:
    (lab.lower / "text").write_bytes(b"".join(b"%d\n" % number for number in range(50)) + b"no end")
    (lab.lower / "ran").write_bytes(b"#!/bin/sh\n")
    (lab.lower / "goes").write_bytes(b"goes\n")
    (lab.lower / "fifo").unlink()  # copytree takes none
    branch = lab.branch()
    write(branch, b"text", b"first\n" + b"".join(b"%d\n" % number for number in range(40)) + b"\nend\n")
    branch.chmod(b"ran", 0o755)
    branch.unlink(b"goes")
    write(branch, b"empty", b"")
    write(branch, 'a b "q"\\ \u00fc\n\udcff'.encode("utf-8", "surrogateescape"), b"odd\r\nname")
    write(branch, b"with space", b"x\n")
    branch.symlink(b"text", b"to text")
    branch.mkdir(b"made")
    write(branch, b"made/inner", b"\xff\xfe not utf-8\n")
    branch.unlink(b"file")
    branch.symlink(b"nowhere", b"file")  # one kind in the place of another
    changes = branch.changes()
    text = b"".join(patch(branch, changes))
    copy = lab.lower.parent / "copy"
    shutil.copytree(lab.lower, copy, symlinks=True, ignore=lambda *_: [])
    subprocess.run(["git", "init", "-q", copy], check=True)
    done = subprocess.run(["git", "apply", "-"], cwd=copy, input=text, capture_output=True, check=False)
    assert done.returncode == 0, (done.stderr, text)
    for change in changes:
        place = os.path.join(os.fsencode(copy), os.fsencode(change.path))
        if change.after is None:
            assert not os.path.lexists(place)
        elif change.after.kind.value == "symlink":
            assert os.readlink(place) == os.fsencode(change.after.target)
        elif change.after.kind.value == "file":
            assert Path(os.fsdecode(place)).read_bytes() == read(branch, os.fsencode(change.path))
            assert bool(os.stat(place).st_mode & 0o100) == bool(change.after.mode & 0o100)
    branch.discard()


def test_what_is_no_text_is_told_as_such_and_nothing_leads_out(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("canary")
    branch = lab.branch()
    write(branch, b"binary", b"a\0b")
    write(branch, b"large", b"x\n" * (1 << 19) + b"y")
    branch.unlink(b"file")
    branch.symlink(os.fsencode(tmp_path / "secret"), b"file")
    text = b"".join(patch(branch, branch.changes()))
    assert b"Binary files /dev/null and b/binary differ\n" in text
    assert b"Binary files /dev/null and b/large differ\n" in text
    assert b"canary" not in text
    branch.discard()


def test_a_link_that_was_put_into_the_tree_meanwhile_is_not_followed(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "one").write_text("canary")
    branch: Branch = lab.branch()
    write(branch, b"directory/one", b"new\n")
    changes = branch.changes()
    os.rename(lab.lower / "directory", lab.lower / "elsewhere")
    (lab.lower / "directory").symlink_to(tmp_path / "away")
    text = b"".join(patch(branch, changes))
    assert b"canary" not in text and b"Binary files a/directory/one and b/directory/one differ" in text
    branch.discard()
