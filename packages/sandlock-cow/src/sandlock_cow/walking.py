"""Walk a directory tree of any depth through fds, following nothing."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from sandlock_sys.openat2 import openat2

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DIRECTORY", "Listed", "open_below", "scan", "walk"]

DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# linux/openat2.h, 5.6: NO_MAGICLINKS | NO_SYMLINKS | BENEATH
_RESOLVE = 0x02 | 0x04 | 0x08
_STEP = 4000  # bytes of a path in one call; PATH_MAX is 4096

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # replaced since its parent was read

Listed = tuple[bytes, os.stat_result]


def open_below(root: int, path: bytes, flags: int = DIRECTORY) -> int:
    """Open `path` (of plain components, b"" for the root itself) below the directory `root`; the caller owns the fd.

    No component may be a symlink (ELOOP), and the path may be longer than PATH_MAX.
    """
    here = root
    while len(path) > _STEP:
        cut = path.rfind(b"/", 0, _STEP)
        further = openat2(here, path[:cut], DIRECTORY, _RESOLVE)
        if here != root:
            os.close(here)
        here, path = further, path[cut + 1 :]
    try:
        return openat2(here, path or b".", flags, _RESOLVE)
    finally:
        if here != root:
            os.close(here)


def scan(directory: int) -> list[Listed]:
    """Names and attributes in a directory (an O_PATH fd will do), sorted by name.

    What vanishes between the listing and the look is left out.
    """
    found = []
    readable = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        names = sorted(map(os.fsencode, os.listdir(readable)))
    finally:
        os.close(readable)
    for name in names:
        try:
            found.append((name, os.stat(name, dir_fd=directory, follow_symlinks=False)))
        except FileNotFoundError:
            continue
    return found


def walk(root: int) -> Iterator[tuple[bytes, int, list[Listed]]]:
    """Every directory below `root`, itself first: its path, an fd closed at the next step, and what is in it."""
    pending = [b""]
    while pending:
        path = pending.pop()
        try:
            directory = open_below(root, path)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            continue
        try:
            listed = scan(directory)
            yield path, directory, listed
        finally:
            os.close(directory)
        below = path + b"/" if path else b""
        pending += [below + name for name, found in reversed(listed) if stat.S_ISDIR(found.st_mode)]
