"""Walk a directory tree of any depth through fds, following nothing."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sandlock_sys.openat2 import openat2

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DIRECTORY", "Listed", "open_below", "open_readable", "open_upper", "opened_up", "scan", "walk"]

DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# linux/openat2.h, 5.6: NO_MAGICLINKS | NO_SYMLINKS | BENEATH
_RESOLVE = 0x02 | 0x04 | 0x08
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
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


@contextmanager
def opened_up(directory: int, *, refused: bool = False) -> Iterator[None]:
    """Let us look into an upper directory of ours whose mode forbids it, and give it its mode back.

    Root needs that where it was `refused`: who serves a program has given up its capabilities.
    """
    if os.geteuid() == 0 and not refused:
        yield
        return
    mode = stat.S_IMODE(os.fstat(directory).st_mode)
    closed = mode & 0o700 != 0o700
    # Safety: the magic link leads to the pinned directory itself.
    path = f"/proc/self/fd/{directory}"
    if closed:
        os.chmod(path, mode | 0o700)
    try:
        yield
    finally:
        if closed:
            os.chmod(path, mode)


def open_upper(root: int, path: bytes, flags: int = DIRECTORY) -> int:
    """`open_below` for the upper layer: programs may have given its directories modes that forbid us to search them."""
    try:
        return open_below(root, path, flags)
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
    parts = path.split(b"/")
    here = root
    try:
        for index, part in enumerate(parts):
            with opened_up(here, refused=True):
                further = open_below(here, part, flags if index == len(parts) - 1 else DIRECTORY)
            if here != root:
                os.close(here)
            here = further
    except BaseException:
        if here != root:
            os.close(here)
        raise
    return here


def open_readable(upper: int, name: bytes) -> int:
    """Open a regular file of the upper layer, which may have a mode that forbids its owner to read it."""
    try:
        return os.open(name, _READ, dir_fd=upper)
    except PermissionError:
        pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=upper)
    path = f"/proc/self/fd/{pinned}"
    try:
        mode = stat.S_IMODE(os.fstat(pinned).st_mode)
        os.chmod(path, mode | 0o400)
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.chmod(path, mode)
    finally:
        os.close(pinned)


def walk(root: int, *, upper: bool = False) -> Iterator[tuple[bytes, int, list[Listed]]]:
    """Every directory below `root`, itself first: its path, an fd closed at the next step, and what is in it.

    In the `upper` layer, which is ours, no mode hides anything; in the real tree what may not be read is left out.
    """
    pending = [b""]
    while pending:
        path = pending.pop()
        try:
            directory = open_upper(root, path) if upper else open_below(root, path)
        except OSError as error:
            if error.errno not in _GONE and (upper or error.errno != errno.EACCES):
                raise
            continue
        listed: list[Listed] = []
        try:
            if upper:
                with opened_up(directory):
                    listed = scan(directory)
                    yield path, directory, listed
            elif os.access(b".", os.R_OK | os.X_OK, dir_fd=directory, effective_ids=True):
                listed = scan(directory)
                yield path, directory, listed
        finally:
            os.close(directory)
        below = path + b"/" if path else b""
        pending += [below + name for name, found in reversed(listed) if stat.S_ISDIR(found.st_mode)]
