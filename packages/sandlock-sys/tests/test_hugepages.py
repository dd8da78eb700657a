"""Pages of a file in memory are made huge, with what is in them; other files, and halves, are refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandlock_sys import memfd
from sandlock_sys.errors import SyscallError
from sandlock_sys.hugepages import MODES, collapse_file, huge_page_size, mode

SIZE = huge_page_size()
HUGE = pytest.mark.skipif(not SIZE or mode() == "never", reason="this kernel has no huge pages, or may not use them")
BLOCK = 512  # of st_blocks


@pytest.fixture
def file() -> Iterator[int]:
    fd = memfd.create(b"huge")
    yield fd
    os.close(fd)


def test_the_mode_is_what_the_kernel_says() -> None:
    assert mode() in MODES
    assert SIZE % 4096 == 0
    assert bool(SIZE) == Path("/sys/kernel/mm/transparent_hugepage").is_dir()


@HUGE
def test_what_is_in_a_file_stays_and_the_rest_is_zeros(file: int) -> None:
    os.ftruncate(file, 3 * SIZE)
    os.pwrite(file, b"first", SIZE)
    os.pwrite(file, b"last", 3 * SIZE - 4)
    assert os.fstat(file).st_blocks * BLOCK < SIZE
    try:
        collapse_file(file, SIZE, 2 * SIZE, SIZE)
    except SyscallError as error:
        pytest.skip(f"no room for huge pages, or none of files: {error}")
    assert os.fstat(file).st_blocks * BLOCK == 2 * SIZE
    assert os.pread(file, 3 * SIZE, 0) == bytes(SIZE) + b"first" + bytes(2 * SIZE - 9) + b"last"


@HUGE
def test_a_huge_page_of_which_nothing_is_there_is_refused(file: int) -> None:
    os.ftruncate(file, SIZE)
    with pytest.raises(SyscallError):
        collapse_file(file, 0, SIZE, SIZE)
    assert os.fstat(file).st_blocks == 0


@pytest.mark.parametrize(("offset", "length"), [(4096, 1 << 21), (0, 4096), (0, 0), (0, -(1 << 21)), (1 << 21, 5)])
def test_halves_of_huge_pages_are_refused_before_the_kernel_is_asked(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="no huge pages"):
        collapse_file(-1, offset, length, 1 << 21)


def test_a_file_that_is_none_is_refused() -> None:
    with pytest.raises(SyscallError) as caught:
        collapse_file(-1, 0, 1 << 21, 1 << 21)
    assert caught.value.errno == 9
