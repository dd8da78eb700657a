"""The names of a merged directory."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import nullcontext
from typing import TYPE_CHECKING

from sandlock_cow import overlay
from sandlock_cow.model import Name
from sandlock_cow.walking import opened_up

if TYPE_CHECKING:
    from sandlock_cow.directories import Directory
    from sandlock_cow.paths import Parts
    from sandlock_cow.tree import Tree

__all__ = ["bare_names", "is_empty", "names"]

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_DT_UNKNOWN = 0


def names(tree: Tree, parts: Parts) -> tuple[Name, ...]:
    """Public listing of `Branch.listdir`."""
    directory = _directory(tree, parts)
    found: dict[bytes, Name] = {}
    hidden: set[bytes] = set()
    for fd in (directory.upper, directory.lower):
        if fd >= 0:
            _add(tree, fd, found, hidden, upper=fd == directory.upper)
    return tuple(found[name] for name in sorted(found))


def _add(tree: Tree, fd: int, found: dict[bytes, Name], hidden: set[bytes], *, upper: bool) -> None:
    """Names with d_type and d_ino of the listing itself, which take no look at each file, and no right to."""
    # Safety: the magic link leads to the pinned directory itself; `.` would need the right to search it.
    reading = os.open(f"/proc/self/fd/{fd}", _READ)
    try:
        # The kind of a special file takes a look at it, which the right to read names does not give.
        with opened_up(fd) if upper else nullcontext(), os.scandir(reading) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if name in hidden or name in found:
                    continue
                kind = _type(entry)
                if _hides(tree, fd, name, kind, upper=upper):
                    hidden.add(name)
                else:
                    inode = entry.inode()
                    found[name] = Name(name, kind, tree.identities.of_upper(inode) if upper else inode)
    finally:
        os.close(reading)


def _hides(tree: Tree, fd: int, name: bytes, kind: int, *, upper: bool) -> bool:
    if kind == stat.S_IFCHR >> 12:
        # The upper layer has no other character devices: the branch makes none and copies none.
        return upper or overlay.is_whiteout_mode(os.stat(name, dir_fd=fd, follow_symlinks=False))
    if not upper or tree.store.device_whiteouts or kind != stat.S_IFREG >> 12:
        return False
    return overlay.is_whiteout(fd, name, os.stat(name, dir_fd=fd, follow_symlinks=False))


def _type(entry: os.DirEntry[str]) -> int:
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG >> 12
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR >> 12
    if entry.is_symlink():
        return stat.S_IFLNK >> 12
    try:
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) >> 12
    except (FileNotFoundError, PermissionError):
        return _DT_UNKNOWN


def _directory(tree: Tree, parts: Parts) -> Directory:
    place = tree.require(parts)
    if not place.is_directory:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return tree.directories.get(parts)


def bare_names(tree: Tree, parts: Parts) -> list[bytes]:
    """The names in a directory, whatever the mode in the upper layer says to programs: for the branch's own use."""
    directory = tree.directories.get(parts)
    found: dict[bytes, Name] = {}
    hidden: set[bytes] = set()
    if directory.upper >= 0:
        with opened_up(directory.upper):
            _add(tree, directory.upper, found, hidden, upper=True)
    if directory.lower >= 0:
        _add(tree, directory.lower, found, hidden, upper=False)
    return sorted(found)


def is_empty(tree: Tree, parts: Parts) -> bool:
    """Whether a program sees nothing in the directory."""
    return not bare_names(tree, parts)
