"""close_range: close a range of file descriptors at once (close_range(2), 5.9)."""

from __future__ import annotations

from sandlock_sys._call import check
from sandlock_sys._ffi import lib

__all__ = ["close_range"]


def close_range(first: int, last: int = 0xFFFF_FFFF, flags: int = 0) -> None:
    """Close every fd from `first` to `last`, both included; fds that are not open are skipped.

    Arguments:
        first: lowest fd.
        last: highest fd; the default is the end of the table.
        flags: CLOSE_RANGE_CLOEXEC only marks them close-on-exec (5.11); CLOSE_RANGE_UNSHARE first gives the caller a
            table of its own.

    Raises:
        SyscallError: EINVAL for `first` above `last` or an unknown flag.

    """
    check("close_range", lib.sl_close_range(first, last, flags), f"{first}..{last}, flags {flags:#x}")
