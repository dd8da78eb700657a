"""Noting writes: what was written is told, what was not is not, and nothing is left when the descriptor is closed."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator

import pytest

from sandlock_sys import pagemap, proc, userfaultfd
from sandlock_sys.constants.pagemap import PageIs
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import read_smaps

PAGE = mmap.PAGESIZE
PAGES = 64
THERE = PageIs.PRESENT | PageIs.SWAPPED


pytestmark = pytest.mark.needs("write_notes")


class Watched:
    """Memory of our own, and a userfaultfd over it."""

    def __init__(self) -> None:
        self.area = mmap.mmap(-1, PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.area.madvise(mmap.MADV_NOHUGEPAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.area))
        self.end = self.start + PAGES * PAGE
        self.pagemap = proc.open_pagemap(os.getpid())
        self.fd = userfaultfd.create(os.O_CLOEXEC | userfaultfd.USER_MODE_ONLY)
        userfaultfd.note_writes(self.fd)

    def begin(self) -> None:
        userfaultfd.register(self.fd, self.start, self.end)
        self.protect()

    def protect(self) -> None:
        pagemap.scan(self.pagemap, self.start, self.end, all_of=PageIs.WRITTEN, any_of=THERE, report=0, protect=True)

    def written(self) -> set[int]:
        found = pagemap.scan(self.pagemap, self.start, self.end, all_of=PageIs.WRITTEN, any_of=THERE, report=0)
        return {at for one in found for at in range((one.start - self.start) // PAGE, (one.end - self.start) // PAGE)}

    def allowed(self) -> bool:
        return bool(pagemap.scan(self.pagemap, self.start, self.end, all_of=PageIs.WPALLOWED, any_of=THERE, report=0))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@pytest.fixture
def watched() -> Iterator[Watched]:
    found = Watched()
    yield found
    found.close()
    os.close(found.pagemap)


def test_what_is_written_is_told_until_it_is_protected_again(watched: Watched) -> None:
    for page in range(32):
        watched.area[page * PAGE] = 1
    assert watched.written() == set(range(32))
    watched.begin()
    assert watched.written() == set()
    assert watched.area[3 * PAGE] == 1  # reading is not writing
    watched.area[5 * PAGE] = 1
    watched.area[40 * PAGE] = 1  # a page that was not there before
    assert watched.written() == {5, 40}
    with open("/dev/zero", "rb", buffering=0) as file:  # the kernel writes as well
        file.readinto(memoryview(watched.area)[7 * PAGE : 7 * PAGE + 1])
    assert watched.written() == {5, 7, 40}
    watched.protect()
    assert watched.written() == set()
    watched.area[5 * PAGE] = 2
    assert watched.written() == {5}


def test_pages_that_are_not_there_stay_so(watched: Watched) -> None:
    watched.area[0] = 1
    watched.begin()
    assert pagemap.scan(watched.pagemap, watched.start, watched.end, any_of=THERE, report=0) == [
        pagemap.Region(watched.start, watched.start + PAGE, 0)
    ]


def test_nothing_is_left_when_it_is_closed(watched: Watched) -> None:
    watched.area[0] = 1
    watched.begin()
    assert watched.allowed()
    assert [use for use in read_smaps(os.getpid()) if "uw" in use.flags and use.mapping.start == watched.start]
    watched.close()
    assert not watched.allowed()
    assert watched.written() == {0}
    assert not [use for use in read_smaps(os.getpid()) if "uw" in use.flags]


def test_registering_twice_is_once_and_another_is_refused(watched: Watched) -> None:
    watched.area[0] = 1
    watched.begin()
    userfaultfd.register(watched.fd, watched.start, watched.end)
    assert watched.written() == set()
    other = userfaultfd.create(os.O_CLOEXEC | userfaultfd.USER_MODE_ONLY)
    userfaultfd.note_writes(other)
    with pytest.raises(SyscallError) as caught:
        userfaultfd.register(other, watched.start, watched.end)
    assert caught.value.errno == errno.EBUSY
    os.close(other)
    assert watched.allowed()


def test_unprotected_pages_are_written_ones(watched: Watched) -> None:
    watched.area[0] = 1
    watched.begin()
    userfaultfd.unprotect(watched.fd, watched.start, watched.end)
    assert watched.written() == {0}


def test_memory_that_is_not_registered_cannot_be_protected(watched: Watched) -> None:
    watched.area[0] = 1
    with pytest.raises(SyscallError) as caught:
        watched.protect()
    assert caught.value.errno == errno.EPERM
    with pytest.raises(SyscallError) as caught:
        userfaultfd.register(watched.fd, PAGE, 2 * PAGE)
    assert caught.value.errno == errno.EINVAL
