"""PAGEMAP_SCAN: categories of pages (linux/fs.h)."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["PageIs"]


class PageIs(IntFlag):
    """PAGE_IS_*."""

    WPALLOWED = 1 << 0  # 6.7: tracked for writes by userfaultfd
    WRITTEN = 1 << 1  # 6.7: written since it was write-protected
    FILE = 1 << 2  # 6.7: a file's, or shared anonymous memory
    PRESENT = 1 << 3  # 6.7
    SWAPPED = 1 << 4  # 6.7
    PFNZERO = 1 << 5  # 6.7: the shared page of zeros
    HUGE = 1 << 6  # 6.7
    SOFT_DIRTY = 1 << 7  # 6.8
    GUARD = 1 << 8  # 6.15
