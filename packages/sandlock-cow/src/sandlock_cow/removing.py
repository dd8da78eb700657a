"""Remove a whole tree through directory fds: any depth, any mode, no link followed, nothing outside touched."""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["remove_tree"]

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(directory: int, name: bytes) -> None:
    """Remove `name` in `directory`, whatever it is; nothing happens when it is not there.

    A tree may be deeper than a process may have open files or a path may be long, so nothing here recurses: directories
    found inside are moved to the top of the tree and emptied there. Directories that forbid it are made writable first.
    """
    try:
        top = _enter(directory, name)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(name, dir_fd=directory)
        return
    try:
        numbers = count()
        prefix = b".%s-" % os.urandom(8).hex().encode()
        pending = _empty(top, top, prefix, numbers)
        while pending:
            moved = pending.pop()
            inner = _enter(top, moved)
            try:
                pending += _empty(inner, top, prefix, numbers)
            finally:
                os.close(inner)
            os.rmdir(moved, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=directory)


def _enter(directory: int, name: bytes) -> int:
    """Open a directory in which we may do everything; NotADirectoryError for anything else."""
    pinned = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if os.fstat(pinned).st_mode & 0o700 != 0o700:
            # Safety: the magic link leads to the pinned directory itself, whatever its name stands for by now.
            os.chmod(f"/proc/self/fd/{pinned}", 0o700)
        return os.open(b".", _OPEN, dir_fd=pinned)
    finally:
        os.close(pinned)


def _empty(directory: int, top: int, prefix: bytes, numbers: Iterator[int]) -> list[bytes]:
    """Unlink what is in `directory`, move its directories to `top` under fresh names, and return those."""
    moved = []
    with os.scandir(directory) as entries:
        names = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
            continue
        os.close(_enter(directory, name))  # moving a directory needs the right to write in it
        fresh = b"%s%d" % (prefix, next(numbers))
        os.rename(name, fresh, src_dir_fd=directory, dst_dir_fd=top)
        moved.append(fresh)
    return moved
