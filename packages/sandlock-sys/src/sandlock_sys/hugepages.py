"""Huge pages: which there are, and the pages of a file made into them (MADV_COLLAPSE, 6.1)."""

from __future__ import annotations

from sandlock_sys._call import check
from sandlock_sys._ffi import lib

__all__ = ["MODES", "collapse_file", "huge_page_size", "mode"]

_FOLDER = "/sys/kernel/mm/transparent_hugepage"
MODES = ("always", "madvise", "never")


def huge_page_size() -> int:
    """Return the bytes of a transparent huge page, 0 where the kernel has none."""
    try:
        with open(f"{_FOLDER}/hpage_pmd_size", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def mode() -> str:
    """Return what the administrator says of them: one of `MODES`, "never" where there are none."""
    try:
        with open(f"{_FOLDER}/enabled", encoding="ascii") as file:
            words = file.read()
    except OSError:
        return "never"
    return next((one for one in MODES if f"[{one}]" in words), "never")


def collapse_file(fd: int, offset: int, length: int, size: int) -> None:
    """Have `length` bytes of a tmpfs file from `offset` on kept in huge pages; what is not there yet reads as zeros.

    Arguments:
        fd: open for reading and writing, and so long already.
        offset: where; with `length` a multiple of `size`. Each huge page must have one page in it already.
        length: bytes, not 0.
        size: `huge_page_size`, not 0.

    Raises:
        SyscallError: the kernel did not, or not all: EINVAL for a file system that has none, EAGAIN, EBUSY or ENOMEM
            where there is no room.

    """
    if offset % size or length % size or length <= 0:
        raise ValueError(f"{length} bytes at {offset} are no huge pages of {size} bytes")
    check("madvise", lib.sl_collapse_file(fd, offset, length, size), f"fd {fd}, {length} bytes at {offset}")
