"""PAGEMAP_SCAN: let the kernel find the pages of a process that are of a kind (linux/fs.h, 6.7)."""

from __future__ import annotations

from errno import EINTR
from struct import iter_unpack
from typing import NamedTuple

from sandlock_sys._buffers import writable
from sandlock_sys._call import check
from sandlock_sys._ffi import ffi, lib

__all__ = ["Region", "scan"]

_REGIONS_AT_ONCE = 1024
_REGION_SIZE = 24  # struct page_region
_PROTECT = 1 << 0 | 1 << 1  # PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC


class Region(NamedTuple):
    """Neighbouring pages from address `start` to `end` with the same PAGE_IS_* categories."""

    start: int
    end: int
    categories: int


def scan(
    pagemap: int,
    start: int,
    end: int,
    *,
    all_of: int = 0,
    any_of: int = 0,
    none_of: int = 0,
    report: int,
    protect: bool = False,
) -> list[Region]:
    """Return the regions between two page-aligned addresses whose pages are of the wanted kind.

    Arguments:
        pagemap: an fd of /proc/PID/pagemap, which stays the caller's.
        start: first address.
        end: first address behind.
        all_of: PAGE_IS_* categories that a page must all have.
        any_of: categories of which it must have one, if there are any.
        none_of: categories that it must not have.
        report: the categories to tell, and to split regions by.
        protect: write-protect what is found, where writes are noted (`userfaultfd`), in the same step.

    Raises:
        SyscallError: ENOTTY before 6.7, EINVAL for unaligned addresses or an unknown category, ESRCH when the process
            is gone, EPERM where memory is to be protected and writes to it are not noted.

    """
    memory = bytearray(_REGIONS_AT_ONCE * _REGION_SIZE)
    regions = writable(memory)
    argument = ffi.new("struct sl_pagemap_scan *")
    argument.end = end
    # Even who needs no regions asks for them: without, the kernel protects all pages, and marks those not there.
    argument.flags = _PROTECT if protect else 0
    # The kernel inverts the unwanted categories first; then each of the mask must be set.
    argument.category_inverted = none_of
    argument.category_mask = all_of | none_of
    argument.category_anyof_mask = any_of
    argument.return_mask = report
    found: list[Region] = []
    while start < end:
        argument.start = start
        result = lib.sl_pagemap_scan(pagemap, argument, regions, _REGIONS_AT_ONCE)
        if result == -EINTR:
            continue
        count = check("ioctl PAGEMAP_SCAN", result, f"fd {pagemap}, {start:#x}-{end:#x}")
        found += map(Region._make, iter_unpack("=3Q", memoryview(memory)[: count * _REGION_SIZE]))
        if count < _REGIONS_AT_ONCE:
            break  # only a full buffer ends a scan early
        # Not walk_end alone: with more than 512 regions it may lie before some of them (seen on 6.18).
        start = max(argument.walk_end, found[-1].end)
    return found
