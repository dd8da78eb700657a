"""Open, with everything that an open may make necessary: a copy, a new file, an unnamed one."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from sandlock_cow import creation
from sandlock_cow.model import Layer, OpenAt
from sandlock_cow.permissions import require, require_writable
from sandlock_cow.space import INODE_COST
from sandlock_cow.tree import failure

if TYPE_CHECKING:
    from sandlock_cow.paths import Parts
    from sandlock_cow.tree import Place, Tree

__all__ = ["open_entry", "prepare", "readlink"]

_ALWAYS = os.O_NOFOLLOW | os.O_CLOEXEC
_TMPFILE = os.O_TMPFILE & ~os.O_DIRECTORY


def open_entry(tree: Tree, parts: Parts, flags: int, mode: int) -> int:
    """`prepare`, and the last step."""
    ready = prepare(tree, parts, flags, mode)
    if ready.fd >= 0:
        return ready.fd
    fd = os.open(ready.name, ready.flags, ready.mode, dir_fd=ready.directory)
    try:
        if _writes(flags) and tree.space.quota is not None:
            tree.space.watch(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _writes(flags: int) -> bool:
    if flags & os.O_PATH:
        return False
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & (os.O_TRUNC | _TMPFILE))


def prepare(tree: Tree, parts: Parts, flags: int, mode: int) -> OpenAt:
    """Everything but the last step of an open."""
    if flags & os.O_PATH:
        # The kernel ignores all but these beside O_PATH.
        place = tree.require(parts)
        return OpenAt(place.directory, place.name, flags & (os.O_PATH | os.O_DIRECTORY) | _ALWAYS, 0)
    if flags & _TMPFILE:
        return _prepare_unnamed(tree, parts, flags, mode)
    place = tree.place(parts)
    if place.found is None:
        if not flags & os.O_CREAT:
            raise failure(errno.ENOENT)
        if flags & os.O_DIRECTORY:
            raise failure(errno.EINVAL)
        fd = creation.create(tree, place, flags | _ALWAYS, mode)
        return OpenAt(place.parent.upper, place.name, flags, 0, fd)
    _refuse_wrong_kind(place, flags)
    kind = stat.S_IFMT(place.attributes.st_mode)
    # Who reads or writes the real tree's FIFO is outside: the branch has one of its own, as an overlay mount has.
    if kind == stat.S_IFIFO or (_writes(flags) and kind == stat.S_IFREG):
        place = _bring_up(tree, place, flags)
    return OpenAt(place.directory, place.name, flags & ~(os.O_CREAT | os.O_EXCL) | _ALWAYS, 0)


def _refuse_wrong_kind(place: Place, flags: int) -> None:
    """The errors that the kernel finds before it looks at permissions."""
    if flags & os.O_CREAT:
        if flags & os.O_EXCL:
            raise failure(errno.EEXIST)
        if flags & os.O_DIRECTORY:
            raise failure(errno.EINVAL)
    kind = place.attributes.st_mode
    if stat.S_ISLNK(kind):
        raise failure(errno.ENOTDIR if flags & os.O_DIRECTORY else errno.ELOOP)
    if stat.S_ISDIR(kind):
        if _writes(flags) or flags & os.O_CREAT:
            raise failure(errno.EISDIR)
    elif flags & os.O_DIRECTORY:
        raise failure(errno.ENOTDIR)
    elif stat.S_ISSOCK(kind):
        raise failure(errno.ENXIO)


def _bring_up(tree: Tree, place: Place, flags: int) -> Place:
    """Copy up a file that is about to be written; before that, the refusal that its mode deserves."""
    if place.layer is Layer.LOWER:
        access = flags & os.O_ACCMODE
        wanted = (0 if access == os.O_WRONLY else os.R_OK) | (
            os.W_OK if access != os.O_RDONLY or flags & os.O_TRUNC else 0
        )
        require(place.parent.lower, place.name, wanted)
        place = tree.raise_up(place, data=not flags & os.O_TRUNC)
    tree.space.reserve(0)
    return place


def _prepare_unnamed(tree: Tree, parts: Parts, flags: int, mode: int) -> OpenAt:
    if flags & os.O_ACCMODE == os.O_RDONLY or flags & os.O_CREAT:
        raise failure(errno.EINVAL)
    if not tree.require(parts).is_directory:
        raise failure(errno.ENOTDIR)
    require_writable(tree.directories.get(parts))
    tree.space.reserve(INODE_COST)
    upper = tree.upper_directory(parts).upper
    fd = os.open(b".", flags | _ALWAYS, mode & 0o7777, dir_fd=upper)
    try:
        creation.exact_mode(fd, mode)
        tree.identities.made(os.fstat(fd))
        tree.space.watch(fd)
    except BaseException:
        os.close(fd)
        raise
    return OpenAt(upper, b".", flags, mode, fd)


def readlink(tree: Tree, parts: Parts) -> bytes:
    """Where a symlink points."""
    place = tree.require(parts)
    return os.readlink(place.name, dir_fd=place.directory)
