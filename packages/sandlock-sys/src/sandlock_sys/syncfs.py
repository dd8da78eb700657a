"""syncfs: write back one file system (syncfs(2), 2.6.39), where one fsync for each of many files would be slow."""

from __future__ import annotations

from sandlock_sys._call import check
from sandlock_sys._ffi import lib

__all__ = ["syncfs"]


def syncfs(fd: int) -> None:
    """Return when everything written to the file system of `fd` so far is on the device.

    Arguments:
        fd: any open file of it, not one opened with O_PATH; stays the caller's.

    Raises:
        SyscallError: EIO, ENOSPC, EDQUOT when something could not be written (reported since 5.8); EBADF.

    """
    check("syncfs", lib.sl_syncfs(fd), f"fd {fd}")
