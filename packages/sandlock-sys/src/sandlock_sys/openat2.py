"""openat2: open a path with rules on how it may be resolved (openat2(2), 5.6)."""

from __future__ import annotations

from os import O_CLOEXEC, fsdecode

from sandlock_sys._call import check
from sandlock_sys._ffi import ffi, lib

__all__ = ["AT_FDCWD", "openat2"]

AT_FDCWD = -100  # linux/fcntl.h: resolve relative to the working directory


def openat2(directory: int, path: bytes, flags: int, resolve: int = 0, mode: int = 0) -> int:
    """Open `path` relative to `directory` and return its fd, always close-on-exec, that the caller owns.

    Arguments:
        directory: a directory's fd (stays the caller's) or AT_FDCWD.
        path: no NUL in it.
        flags: O_* bits; unlike open(2), unknown ones are refused.
        resolve: RESOLVE_* bits.
        mode: permission bits for O_CREAT and O_TMPFILE, else 0.

    Raises:
        SyscallError: EXDEV when the path left `directory` with RESOLVE_BENEATH, ELOOP for a link that is not allowed,
            EAGAIN when 256 tries in a row met renames that raced with a `..`, or RESOLVE_CACHED would have to wait, and
            everything open(2) answers.
        ValueError: NUL in the path.

    """
    if b"\0" in path:
        raise ValueError(f"NUL byte in the path {path!r}")
    how = ffi.new("struct sl_open_how *", (flags | O_CLOEXEC, mode, resolve))
    return check("openat2", lib.sl_openat2(directory, path, how), fsdecode(path))
