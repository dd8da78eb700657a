"""Read the 64-bit entries of /proc/PID/pagemap: which pages exist, and of what kind (proc_pid_pagemap(5)).

Nothing here loops over pages in Python: flag bytes are cut out, translated and searched as whole byte strings.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from sandlock_sys.errors import ProcParseError

__all__ = ["ENTRY_SIZE", "Page", "PageRun", "find_runs", "page_at"]

ENTRY_SIZE = 8  # bytes for each page

_ONES = re.compile(rb"\x01+")


class Page(enum.IntFlag):
    """Bits of an entry (Documentation/admin-guide/mm/pagemap.rst)."""

    SOFT_DIRTY = 1 << 55  # 3.11: written since /proc/PID/clear_refs was
    EXCLUSIVE = 1 << 56  # 4.2: mapped by this process only
    UFFD_WP = 1 << 57  # 5.13: write-protected by userfaultfd
    GUARD = 1 << 58  # 6.15: a guard region of madvise(2)
    FILE_OR_SHARED = 1 << 61  # 3.5: a file's page, or shared anonymous memory
    SWAPPED = 1 << 62  # 2.6.25
    PRESENT = 1 << 63  # 2.6.25


class PageRun(NamedTuple):
    """`pages` neighbouring pages, the first of them number `first` in the data."""

    first: int
    pages: int


def page_at(data: bytes, index: int) -> Page:
    """Return the flags of page number `index` of the data, without its frame number."""
    entry = int.from_bytes(data[index * ENTRY_SIZE : (index + 1) * ENTRY_SIZE], "little")
    return Page(entry & _ALL)


def find_runs(data: bytes, *, all_of: int = 0, any_of: int = 0, none_of: int = 0) -> list[PageRun]:
    """Return the runs of pages that have every flag of `all_of`, one of `any_of` (if it has any), none of `none_of`.

    A private page that is no longer its file's: `any_of=PRESENT | SWAPPED, none_of=FILE_OR_SHARED`.

    Raises:
        ProcParseError: the data is not a whole number of entries.
        ValueError: a mask has a bit that is no `Page` flag.

    """
    if (all_of | any_of | none_of) & ~_ALL:
        raise ValueError(f"not flags of a page: {(all_of | any_of | none_of) & ~_ALL:#x}")
    if len(data) % ENTRY_SIZE:
        raise ProcParseError("pagemap", 1, data[-(len(data) % ENTRY_SIZE) :], f"{len(data)} bytes end inside an entry")
    # Only the soft-dirty bit lies in the byte below the highest.
    positions = (7, 6) if Page.SOFT_DIRTY & (all_of | any_of | none_of) else (7,)
    pages = len(data) // ENTRY_SIZE
    # Strings of one byte per page, 1 for "matches", are joined as long integers.
    chosen = int.from_bytes(b"\1" * pages, "little")
    for position in positions:
        every, no = _byte(all_of, position), _byte(none_of, position)
        chosen &= _marks(data, position, bytes(byte & every == every and not byte & no for byte in range(256)))
    if any_of:
        found = 0
        for position in positions:
            some = _byte(any_of, position)
            found |= _marks(data, position, bytes(bool(byte & some) for byte in range(256)))
        chosen &= found
    return [
        PageRun(match.start(), match.end() - match.start())
        for match in _ONES.finditer(chosen.to_bytes(pages, "little"))
    ]


_ALL = sum(Page)


def _byte(mask: int, position: int) -> int:
    """Return the part of a flag mask that lies in the byte at `position` of an entry."""
    return (mask & _ALL) >> position * 8 & 0xFF


def _marks(data: bytes, position: int, table: bytes) -> int:
    return int.from_bytes(data[position::ENTRY_SIZE].translate(table), "little")
