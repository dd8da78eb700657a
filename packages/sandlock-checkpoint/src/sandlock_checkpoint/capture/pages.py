"""Find the pages of a stopped process whose contents are its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from errno import EINVAL, ENOTTY

from sandlock_checkpoint.memory import Run
from sandlock_sys import pagemap
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import find_runs, open_pagemap, read_pagemap
from sandlock_sys.proc.pagemap import Page

__all__ = ["PageFinder", "merged"]

# PAGE_IS_* of linux/fs.h, 6.7
_FILE = 1 << 2
_PRESENT = 1 << 3
_SWAPPED = 1 << 4
_ZERO = 1 << 5
_GUARD = 1 << 8  # 6.15

_PAGES_AT_ONCE = 1 << 18  # 2 MiB of pagemap entries


def merged(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Return ascending runs with those that touch made one."""
    found: list[Run] = []
    for run in runs:
        if found and found[-1].offset + found[-1].length == run.offset:
            found[-1] = Run(found[-1].offset, found[-1].length + run.length)
        else:
            found.append(run)
    return tuple(found)


class PageFinder:
    """Asks the kernel about the pages of one process; close it."""

    def __init__(self, pid: int) -> None:
        self._fd = open_pagemap(pid)
        self._scans = True  # PAGEMAP_SCAN is there, 6.7
        self._guards = True  # and knows guard regions, 6.15
        self._page = os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def own(self, start: int, end: int, *, of_file: bool) -> tuple[Run, ...]:
        """Return the pages of a private mapping that hold anything but the file's contents, or zeros without a file.

        Arguments:
            start: first address; offsets count from it.
            end: first address behind.
            of_file: a file is behind the mapping: then a page of zeros is a page of its own.

        """
        while self._scans:
            # Whether a page is a file's is asked only where one is: it costs a look at each page's description.
            unwanted = (_FILE if of_file else _ZERO) | (_GUARD if self._guards else 0)
            try:
                regions = pagemap.scan(self._fd, start, end, any_of=_PRESENT | _SWAPPED, none_of=unwanted, report=0)
            except SyscallError as error:
                self._give_up(error)
                continue
            return merged(Run(region.start - start, region.end - region.start) for region in regions)
        return self._by_entries(start, end)

    def guards(self, start: int, end: int) -> tuple[Run, ...]:
        """Return the guard regions of a mapping (MADV_GUARD_INSTALL, 6.13; told since 6.15)."""
        while self._scans and self._guards:
            try:
                regions = pagemap.scan(self._fd, start, end, all_of=_GUARD, report=_GUARD)
            except SyscallError as error:
                self._give_up(error)
                continue
            return merged(Run(region.start - start, region.end - region.start) for region in regions)
        return ()

    def _give_up(self, error: SyscallError) -> None:
        if error.errno == ENOTTY:
            self._scans = False
        elif error.errno == EINVAL and self._guards:
            self._guards = False
        else:
            raise error

    def _by_entries(self, start: int, end: int) -> tuple[Run, ...]:
        found = []
        step = _PAGES_AT_ONCE * self._page
        for part in range(start, end, step):
            data = read_pagemap(self._fd, part, min(part + step, end))
            runs = find_runs(data, any_of=Page.PRESENT | Page.SWAPPED, none_of=Page.FILE_OR_SHARED | Page.GUARD)
            found += [Run(part - start + run.first * self._page, run.pages * self._page) for run in runs]
        return merged(found)
