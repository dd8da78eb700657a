"""Which number a file of a branch has: it stays through a copy, and no two files share one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cow_lab import Lab, write

from sandlock_cow.beside import Beside
from sandlock_cow.hard_links import HardLinks
from sandlock_cow.identities import Identities


def status(device: int, inode: int, links: int = 1) -> os.stat_result:
    """Attributes of a regular file."""
    return os.stat_result((0o100644, inode, device, links, 0, 0, 0, 0, 0, 0))


class Watch:
    """What a branch tells."""

    def __init__(self) -> None:
        self.numbers: dict[int, tuple[int, int] | None] = {}

    def begin(self) -> None: ...

    def end(self) -> None: ...

    def forget(self) -> None: ...

    def show(self, inode: int, shown: tuple[int, int] | None) -> None:
        self.numbers[inode] = shown


@pytest.fixture
def lower(tmp_path: Path) -> int:
    return os.open(tmp_path, os.O_PATH)


@pytest.mark.parametrize("storage", [1, 2])
def test_a_number_that_comes_back_is_no_other_file_s(lower: int, storage: int) -> None:
    from threading import RLock

    beside = Beside(RLock())
    identities = Identities(1, storage, beside, HardLinks(lower))
    upper, fresh = status(storage, 50), status(storage, 10)
    identities.note(upper, status(1, 10), "")
    assert identities.of(upper) == (1, 10)
    identities.made(fresh)  # the real file 10 is gone, and its number was given to a new one on the same file system
    assert identities.of(fresh) != (1, 10)
    assert identities.of(fresh)[0] == 1
    identities.forget(upper)
    assert identities.of(upper)[1] != 10
    identities.note(upper, status(1, 11), "")
    identities.made(upper)  # not forgotten by whoever removed it
    assert identities.of(upper) not in {(1, 10), (1, 11)}
    other = status(storage, 60)
    identities.note(other, status(7, 12), "")  # of a file system that is mounted below
    assert identities.of(other) == (7, 12)
    assert len({identities.of(found) for found in (upper, fresh, other)}) == 3


def test_who_shows_the_branch_is_told_of_every_number(lab: Lab) -> None:
    branch = lab.branch()
    branch.copy_up(b"file")
    early, late = Watch(), Watch()
    branch.beside.watch(early)
    branch.copy_up(b"other")
    branch.beside.watch(late)
    branch.rename(b"other", b"renamed")
    branch.unlink(b"file")
    assert len(set(late.numbers.values())) >= 3
    assert {inode: shown for inode, shown in late.numbers.items() if shown is not None} == branch.beside.numbers
    assert set(early.numbers) <= set(late.numbers)


def test_a_file_that_has_a_name_outside_of_the_tree_is_another_one_when_it_is_copied_up(lab: Lab) -> None:
    outside = lab.root / "outside"
    outside.hardlink_to(lab.lower / "file")
    branch = lab.branch()
    before = branch.identity(branch.stat(b"file"))
    assert before == (outside.stat().st_dev, outside.stat().st_ino)
    write(branch, b"file", b"mine")
    after = branch.identity(branch.stat(b"file"))
    assert after != before
    assert after not in {
        branch.identity(branch.stat(entry.name)) for entry in branch.listdir(b"") if entry.name != b"file"
    }


def test_names_that_the_branch_hides_count_as_names_of_the_tree(lab: Lab) -> None:
    branch = lab.branch()
    before = branch.identity(branch.stat(b"linked"))
    branch.unlink(b"directory/linked too")
    branch.copy_up(b"linked")
    assert branch.identity(branch.stat(b"linked")) == before


def test_a_group_keeps_its_number_when_the_branch_comes_back(lab: Lab) -> None:
    branch = lab.branch()
    before = branch.identity(branch.stat(b"linked"))
    branch.link(b"linked", b"third")
    branch.rename(b"linked", b"moved")
    again = lab.resume(branch.keep())
    assert {again.identity(again.stat(name)) for name in (b"moved", b"third", b"directory/linked too")} == {before}


def test_what_was_committed_is_the_real_tree_s_new_file(lab: Lab) -> None:
    branch = lab.branch()
    before = branch.identity(branch.stat(b"file"))
    write(branch, b"file", b"mine")
    write(branch, b"other", b"mine too")
    kept = branch.identity(branch.stat(b"other"))
    branch.commit(paths=["file"])
    assert branch.identity(branch.stat(b"file")) != before, "its old number is free for others"
    again = lab.resume(branch.keep())
    assert again.identity(again.stat(b"file")) != before
    assert again.identity(again.stat(b"other")) == kept
