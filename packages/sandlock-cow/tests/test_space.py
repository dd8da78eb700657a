"""What a branch with a quota counts beside the bytes of its files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sandlock_cow import Branch, BranchQuotaError, space

if TYPE_CHECKING:
    from collections.abc import Callable

    from cow_lab import Lab

pytestmark = pytest.mark.usefixtures("leaks")


def until_full(act: Callable[[int], object], most: int) -> int:
    """How often `act` succeeds before the quota refuses it, at most `most` times."""
    for number in range(most):
        try:
            act(number)
        except BranchQuotaError:
            return number
    return most


def long_name(number: int) -> bytes:
    return (b"%06d" % number).ljust(250, b"x")


def test_fs23_names_of_one_file_count_and_so_does_the_folder_they_are_in(lab: Lab) -> None:
    branch = lab.branch(quota=256 << 10)
    branch.mknod(b"one", 0o644)
    empty = branch.usage()
    made = until_full(lambda number: branch.link(b"one", long_name(number)), 1000)
    assert 100 < made < 512
    assert branch.usage() == branch.usage(exact=True)
    for number in range(made):
        branch.unlink(long_name(number))
    # What the folder has grown by stays, and what was noted of each name.
    assert branch.usage().allocated - empty.allocated < (256 << 10) - 400 * made
    assert branch.usage() == branch.usage(exact=True)


def test_fs23_folders_that_were_full_once_count_with_what_they_keep(lab: Lab) -> None:
    branch = lab.branch(quota=1 << 20)

    def fill(folder: int) -> None:
        branch.mkdir(b"%d" % folder)
        for number in range(60):
            branch.mknod(b"%d/" % folder + long_name(number), 0o644)
        for number in range(60):
            branch.unlink(b"%d/" % folder + long_name(number))

    for folder in range(5):
        fill(folder)
    assert branch.usage() == branch.usage(exact=True)


def test_fs23_what_is_noted_of_names_that_came_and_went_counts(lab: Lab) -> None:
    branch = lab.branch(quota=64 << 10)

    def touch(number: int) -> None:
        branch.mknod(long_name(number), 0o644)
        branch.unlink(long_name(number))

    assert 100 < until_full(touch, 1000) < 300
    assert os.stat(os.path.join(branch.path, "records")).st_size <= 64 << 10
    full = branch.usage()
    branch.close()
    again = Branch.resume(branch.path, quota=64 << 10)
    try:
        assert again.usage().allocated == full.allocated
    finally:
        again.close()


def test_fs23_many_files_without_a_name_are_asked_for_a_few_at_a_time(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each count went through all of them, 27 ms for 511, and every sandbox of the same loop waited."""
    branch = lab.branch(quota=1 << 20)
    held = [branch.open(b"", os.O_RDWR | os.O_TMPFILE, 0o600) for _ in range(300)]
    asked = 0
    in_use = space._in_use

    def counted(fd: int, found: os.stat_result) -> bool:
        nonlocal asked
        asked += 1
        return in_use(fd, found)

    monkeypatch.setattr(space, "_in_use", counted)
    for _ in range(10):
        branch.reserve(0)
    assert asked == 640
    os.write(held[299], bytes(3 << 18))
    with pytest.raises(BranchQuotaError):
        branch.reserve(1 << 19)
    for fd in held:
        os.close(fd)
    for _ in range(5):
        branch.usage()
    branch.reserve(1 << 19)
    assert branch.usage() == branch.usage(exact=True)
