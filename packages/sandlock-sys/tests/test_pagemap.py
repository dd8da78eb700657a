"""Pages of a mapping: which exist, by /proc/PID/pagemap and by PAGEMAP_SCAN, agree with what was touched."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_sys import pagemap, proc
from sandlock_sys.constants.pagemap import PageIs
from sandlock_sys.errors import ProcParseError, SyscallError
from sandlock_sys.probe import probe
from sandlock_sys.proc import Page, PageRun

SCANS = bool(probe().pagemap_scan)
PAGE = mmap.PAGESIZE
FLAGS = st.sets(st.sampled_from(list(Page))).map(sum)
ENTRIES = st.lists(st.tuples(FLAGS, st.integers(0, 2**55 - 1)).map(sum), max_size=60)


def naive(entries: list[int], all_of: int, any_of: int, none_of: int) -> list[int]:
    return [
        index
        for index, entry in enumerate(entries)
        if entry & all_of == all_of and (not any_of or entry & any_of) and not entry & none_of
    ]


@given(ENTRIES, FLAGS, FLAGS, FLAGS)
def test_runs_are_the_pages_that_a_simple_loop_finds(
    entries: list[int], all_of: int, any_of: int, none_of: int
) -> None:
    data = b"".join(entry.to_bytes(8, "little") for entry in entries)
    runs = proc.find_runs(data, all_of=all_of, any_of=any_of, none_of=none_of)
    found = [page for run in runs for page in range(run.first, run.first + run.pages)]
    assert found == naive(entries, all_of, any_of, none_of)
    assert all(one.first + one.pages < two.first for one, two in pairwise(runs))
    assert [proc.page_at(data, index) for index in range(len(entries))] == [
        Page(entry >> 55 << 55 & sum(Page)) for entry in entries
    ]


def test_half_an_entry_and_unknown_flags_are_errors() -> None:
    with pytest.raises(ProcParseError):
        proc.find_runs(bytes(9))
    with pytest.raises(ValueError, match="not flags"):
        proc.find_runs(bytes(8), any_of=1)


@pytest.fixture
def own() -> Iterator[int]:
    fd = proc.open_pagemap(os.getpid())
    yield fd
    os.close(fd)


def small_pages(area: mmap.mmap) -> int:
    """The address of a mapping, made of small pages only so that touching one makes one."""
    area.madvise(mmap.MADV_NOHUGEPAGE)
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def test_touched_private_pages_are_present_and_no_files(own: int) -> None:
    area = mmap.mmap(-1, PAGE * 2000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = small_pages(area)
    for page in (0, 3, 4, 5, 1999):
        area[page * PAGE] = 1
    data = proc.read_pagemap(own, start, start + PAGE * 2000)
    expected = [PageRun(0, 1), PageRun(3, 3), PageRun(1999, 1)]
    assert proc.find_runs(data, any_of=Page.PRESENT | Page.SWAPPED, none_of=Page.FILE_OR_SHARED) == expected
    assert proc.find_runs(data, all_of=Page.PRESENT | Page.EXCLUSIVE) == expected
    assert proc.find_runs(data, all_of=Page.PRESENT | Page.FILE_OR_SHARED) == []
    if not SCANS:
        return
    regions = pagemap.scan(own, start, start + PAGE * 2000, any_of=PageIs.PRESENT | PageIs.SWAPPED, report=0)
    assert [PageRun((one.start - start) // PAGE, (one.end - one.start) // PAGE) for one in regions] == expected


def test_a_files_pages_become_private_where_they_are_written(own: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE * 4))
    with open(path, "rb") as file:
        area = mmap.mmap(file.fileno(), PAGE * 4, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert [area[page * PAGE] for page in range(4)] == [0] * 4
    area[PAGE] = 1
    data = proc.read_pagemap(own, start, start + PAGE * 4)
    assert proc.find_runs(data, all_of=Page.PRESENT, none_of=Page.FILE_OR_SHARED) == [PageRun(1, 1)]
    assert proc.find_runs(data, all_of=Page.PRESENT | Page.FILE_OR_SHARED) == [PageRun(0, 1), PageRun(2, 2)]
    if not SCANS:
        return
    own_copies = pagemap.scan(
        own, start, start + PAGE * 4, all_of=PageIs.PRESENT, none_of=PageIs.FILE, report=PageIs.FILE
    )
    assert own_copies == [pagemap.Region(start + PAGE, start + 2 * PAGE, 0)]


@pytest.mark.skipif(not SCANS, reason="this kernel has no PAGEMAP_SCAN (6.7)")
def test_more_regions_than_one_buffer_are_all_found(own: int) -> None:
    area = mmap.mmap(-1, PAGE * 6000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = small_pages(area)
    for page in range(0, 6000, 2):
        area[page * PAGE] = 1
    regions = pagemap.scan(own, start, start + PAGE * 6000, all_of=PageIs.PRESENT, report=PageIs.PRESENT)
    assert [(one.start - start) // PAGE for one in regions] == list(range(0, 6000, 2))
    assert {one.categories for one in regions} == {PageIs.PRESENT}


@pytest.mark.skipif(not SCANS, reason="this kernel has no PAGEMAP_SCAN (6.7)")
def test_wrong_scans_are_refused(own: int) -> None:
    for start, end, masks, error in [
        (1, PAGE * 2, 0, errno.EINVAL),
        (PAGE, PAGE * 2, 1 << 50, errno.EINVAL),
    ]:
        with pytest.raises(SyscallError) as caught:
            pagemap.scan(own, start, end, all_of=masks, report=0)
        assert caught.value.errno == error
    with pytest.raises(SyscallError), open("/dev/null", "rb") as file:
        pagemap.scan(file.fileno(), PAGE, PAGE * 2, report=PageIs.PRESENT)
