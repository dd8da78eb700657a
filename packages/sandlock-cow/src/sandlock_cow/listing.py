"""The names of a merged directory."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from sandlock_cow import overlay
from sandlock_cow.model import Name

if TYPE_CHECKING:
    from sandlock_cow.directories import Directory
    from sandlock_cow.paths import Parts
    from sandlock_cow.tree import Tree

__all__ = ["bare_names", "is_empty", "names"]

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DT_UNKNOWN = 0


def names(tree: Tree, parts: Parts) -> tuple[Name, ...]:
    """Public listing of `Branch.listdir`."""
    directory = _directory(tree, parts)
    found: dict[bytes, Name] = {}
    hidden = set()
    if directory.upper >= 0:
        for name, attributes in _scan(directory.upper):
            if overlay.is_whiteout(directory.upper, name, attributes):
                hidden.add(name)
            else:
                found[name] = Name(name, stat.S_IFMT(attributes.st_mode) >> 12, tree.identities.of(attributes)[1])
    if directory.lower >= 0:
        _add_lower(directory, found, hidden)
    return tuple(found[name] for name in sorted(found))


def _add_lower(directory: Directory, found: dict[bytes, Name], hidden: set[bytes]) -> None:
    """d_type and d_ino of the listing itself will do here: no look at each file."""
    reading = os.open(b".", _READ, dir_fd=directory.lower)
    try:
        with os.scandir(reading) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if name in hidden or name in found:
                    continue
                kind = _type(entry)
                if kind == stat.S_IFCHR >> 12 and overlay.is_whiteout_mode(entry.stat(follow_symlinks=False)):
                    continue
                found[name] = Name(name, kind, entry.inode())
    finally:
        os.close(reading)


def _type(entry: os.DirEntry[str]) -> int:
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG >> 12
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR >> 12
    if entry.is_symlink():
        return stat.S_IFLNK >> 12
    try:
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) >> 12
    except FileNotFoundError:
        return _DT_UNKNOWN


def _scan(directory: int) -> list[tuple[bytes, os.stat_result]]:
    reading = os.open(b".", _READ, dir_fd=directory)
    try:
        with os.scandir(reading) as entries:
            return [(os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in entries]
    finally:
        os.close(reading)


def _directory(tree: Tree, parts: Parts) -> Directory:
    place = tree.require(parts)
    if not place.is_directory:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return tree.directories.get(parts)


def bare_names(tree: Tree, parts: Parts) -> list[bytes]:
    """The names in a directory, whatever its mode says to programs: for the branch's own use."""
    directory = tree.directories.get(parts)
    hidden: set[bytes] = set()
    shown: set[bytes] = set()
    for fd in (directory.upper, directory.lower):
        if fd < 0:
            continue
        for name, attributes in _scan(fd):
            if name in hidden:
                continue
            if overlay.is_whiteout_mode(attributes) or (
                fd == directory.upper and overlay.is_whiteout(fd, name, attributes)
            ):
                hidden.add(name)
            else:
                shown.add(name)
    return sorted(shown)


def is_empty(tree: Tree, parts: Parts) -> bool:
    """Whether a program sees nothing in the directory."""
    return not bare_names(tree, parts)
