"""renameat2: rename without replacing, or exchange two names in one step (rename(2), 3.15)."""

from __future__ import annotations

from os import fsdecode

from sandlock_sys._call import check
from sandlock_sys._ffi import lib

__all__ = ["exchange", "rename_new"]

_NOREPLACE = 1  # RENAME_NOREPLACE, linux/fs.h, 3.15
_EXCHANGE = 2  # RENAME_EXCHANGE, linux/fs.h, 3.15


def exchange(from_directory: int, from_name: bytes, to_directory: int, to_name: bytes) -> None:
    """Make each of the two names stand for what the other one stood for; nobody sees a moment between.

    Arguments:
        from_directory: fd of the directory of `from_name`, or AT_FDCWD; stays the caller's.
        from_name: must exist.
        to_directory: likewise, on the same file system.
        to_name: must exist; may be of another type.

    Raises:
        SyscallError: ENOENT when one is missing, EXDEV over two file systems, EINVAL where the file system cannot.

    """
    _rename(from_directory, from_name, to_directory, to_name, _EXCHANGE)


def rename_new(from_directory: int, from_name: bytes, to_directory: int, to_name: bytes) -> None:
    """Rename, and fail with EEXIST where `to_name` exists already; otherwise as `exchange`."""
    _rename(from_directory, from_name, to_directory, to_name, _NOREPLACE)


def _rename(from_directory: int, from_name: bytes, to_directory: int, to_name: bytes, flags: int) -> None:
    if b"\0" in from_name or b"\0" in to_name:
        raise ValueError(f"NUL byte in a name: {from_name!r}, {to_name!r}")
    result = lib.sl_renameat2(from_directory, from_name, to_directory, to_name, flags)
    check("renameat2", result, f"{fsdecode(from_name)} and {fsdecode(to_name)}")
