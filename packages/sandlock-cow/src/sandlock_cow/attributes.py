"""Modes, owners, times, length and extended attributes of what is in a branch."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sandlock_cow import overlay
from sandlock_cow.model import Layer
from sandlock_cow.permissions import require
from sandlock_cow.tree import failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock_cow.paths import Parts
    from sandlock_cow.tree import Place, Tree

__all__ = [
    "access",
    "chmod",
    "chown",
    "getxattr",
    "listxattr",
    "removexattr",
    "setxattr",
    "truncate",
    "utime",
]


def access(tree: Tree, parts: Parts, mode: int) -> None:
    """EACCES unless this user may."""
    place = tree.require(parts)
    if mode:
        require(place.directory, place.name, mode)


def _require_owner(place: Place) -> None:
    if os.geteuid() not in (0, place.attributes.st_uid):
        raise failure(errno.EPERM)


@contextmanager
def _pinned(place: Place) -> Iterator[str]:
    """A path to the very object in the upper layer, a symlink itself included, that no rename redirects."""
    fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.directory)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def chmod(tree: Tree, parts: Parts, mode: int) -> None:
    """Permission bits."""
    place = tree.require(parts)
    if stat.S_ISLNK(place.attributes.st_mode):
        raise failure(errno.EOPNOTSUPP)
    _require_owner(place)
    with _pinned(tree.raise_up(place)) as path:
        os.chmod(path, mode & 0o7777)
    tree.directories.forget(parts)  # what is open below was reached by the old rights


def chown(tree: Tree, parts: Parts, uid: int, gid: int) -> None:
    """Owner and group."""
    place = tree.require(parts)
    found = place.attributes
    user = os.geteuid()
    if user != 0:
        if uid not in (-1, found.st_uid) or (user != found.st_uid and (uid, gid) != (-1, -1)):
            raise failure(errno.EPERM)
        if gid not in (-1, found.st_gid, os.getegid(), *os.getgroups()):
            raise failure(errno.EPERM)
    place = tree.raise_up(place)
    os.chown(place.name, uid, gid, dir_fd=place.parent.upper, follow_symlinks=False)
    tree.directories.forget(parts)


def utime(tree: Tree, parts: Parts, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Access and modification time."""
    if atime_ns is None and mtime_ns is None:
        return
    place = tree.require(parts)
    _require_owner(place)
    place = tree.raise_up(place)
    found = place.attributes
    times = (found.st_atime_ns if atime_ns is None else atime_ns, found.st_mtime_ns if mtime_ns is None else mtime_ns)
    os.utime(place.name, ns=times, dir_fd=place.parent.upper, follow_symlinks=False)


def truncate(tree: Tree, parts: Parts, length: int) -> None:
    """Length of a regular file."""
    if length < 0:
        raise failure(errno.EINVAL)
    place = tree.require(parts)
    if place.is_directory:
        raise failure(errno.EISDIR)
    if not stat.S_ISREG(place.attributes.st_mode):
        raise failure(errno.EINVAL)
    require(place.directory, place.name, os.W_OK)
    place = tree.raise_up(place, data=length > 0)
    if tree.space.is_mapped(place.attributes):  # its holes count
        tree.space.reserve(max(length - place.attributes.st_size, 0))
    with _pinned(place) as path:
        os.truncate(path, length)
    _book(tree, place)


def _stored(place: Place, name: bytes) -> bytes:
    """The name under which the attribute is stored where `place` is; in the real tree nothing is escaped."""
    if place.layer is Layer.UPPER:
        return overlay.escape(name)
    if overlay.unescape(name) != name:
        raise failure(errno.ENODATA)
    return name


def _by_path(place: Place) -> bytes:
    # Safety: the directory is pinned by its fd, and the name is never followed by the calls below.
    return b"/proc/self/fd/%d/%s" % (place.directory, place.name)


def getxattr(tree: Tree, parts: Parts, name: bytes) -> bytes:
    """One value."""
    place = tree.require(parts)
    return os.getxattr(_by_path(place), _stored(place, name), follow_symlinks=False)


def listxattr(tree: Tree, parts: Parts) -> tuple[bytes, ...]:
    """All names that a program sees."""
    place = tree.require(parts)
    stored = map(os.fsencode, os.listxattr(_by_path(place), follow_symlinks=False))
    if place.layer is Layer.UPPER:
        return tuple(seen for name in stored if (seen := overlay.unescape(name)) is not None)
    return tuple(name for name in stored if overlay.unescape(name) == name)


def _writable(tree: Tree, parts: Parts, name: bytes) -> Place:
    """The place in the upper layer, after the refusals that need no copy."""
    place = tree.require(parts)
    kind = place.attributes.st_mode
    if name.startswith(b"user."):
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise failure(errno.EPERM)  # xattr(7)
        require(place.directory, place.name, os.W_OK)
    else:
        _require_owner(place)
    return place


def setxattr(tree: Tree, parts: Parts, name: bytes, value: bytes, flags: int) -> None:
    """Set one attribute."""
    place = tree.raise_up(_writable(tree, parts, name))
    tree.space.reserve(len(name) + len(value))
    os.setxattr(_by_path(place), _stored(place, name), value, flags, follow_symlinks=False)
    _book(tree, place)
    tree.directories.forget(parts)  # it may have been an ACL


def removexattr(tree: Tree, parts: Parts, name: bytes) -> None:
    """Remove one attribute."""
    place = _writable(tree, parts, name)
    if place.layer is Layer.LOWER:
        os.getxattr(_by_path(place), _stored(place, name), follow_symlinks=False)  # ENODATA before any copy
        place = tree.raise_up(place)
    os.removexattr(_by_path(place), _stored(place, name), follow_symlinks=False)
    _book(tree, place)


def _book(tree: Tree, place: Place) -> None:
    """Attributes take blocks, and a shorter file gives some back."""
    tree.space.changed(os.stat(place.name, dir_fd=place.parent.upper, follow_symlinks=False))
