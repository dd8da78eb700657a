"""Bring an object of the real tree into the upper layer: data, attributes, identity and hard links."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sandlock_cow import copying, metadata
from sandlock_cow.permissions import made_writable
from sandlock_cow.space import INODE_COST, cost
from sandlock_cow.walking import DIRECTORY, opened_up

if TYPE_CHECKING:
    from sandlock_cow.directories import Directory
    from sandlock_cow.paths import Parts
    from sandlock_cow.tree import Place, Tree

__all__ = ["copy_subtree", "copy_up", "copy_up_directory"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_up(tree: Tree, place: Place, *, data: bool = True) -> None:
    """Copy what `place` found in the lower layer; its directory comes first."""
    found = place.attributes
    if stat.S_ISDIR(found.st_mode):
        copy_up_directory(tree, place.parts)
        return
    lower = place.parent.lower
    above = tree.upper_directory(place.parts[:-1])
    tree.space.reserve(cost(found) if data else INODE_COST)
    tree.note(place)
    name = _copy_into_work(tree, lower, place.name, found, data=data)
    try:
        _into_place(tree, name, above, place.name, found)
    except BaseException:
        os.unlink(name, dir_fd=tree.work)
        raise
    if found.st_nlink > 1:
        _link_others(tree, place, above)


def _copy_into_work(tree: Tree, lower: int, source: bytes, found: os.stat_result, *, data: bool) -> bytes:
    """A copy of the object under a fresh name in the work directory."""
    name = tree.work_name()
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFREG:
        _copy_file(tree, lower, source, name, found, data=data)
        return name
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(source, dir_fd=lower), name, dir_fd=tree.work)
    elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
        os.mknod(name, found.st_mode, dir_fd=tree.work)
    else:
        # A device node in the branch would be one that this user could not have made.
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    metadata.copy_link(tree.work, name, found)
    return name


def _copy_file(tree: Tree, lower: int, source: bytes, name: bytes, found: os.stat_result, *, data: bool) -> None:
    read = os.open(source, _READ, dir_fd=lower)
    try:
        opened = os.fstat(read)
        if (opened.st_dev, opened.st_ino) != (found.st_dev, found.st_ino) or not stat.S_ISREG(opened.st_mode):
            # Replaced outside between the look and the open; what it is now was not what was decided on.
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        write = os.open(name, _WRITE, 0o600, dir_fd=tree.work)
        try:
            # Before the mode that it will have forbids it.
            tree.identities.note(os.fstat(write), opened, write)
            if data:
                copying.copy_data(read, write, opened.st_size)
            metadata.copy_open_file(read, write, opened)
        except BaseException:
            os.unlink(name, dir_fd=tree.work)
            raise
        finally:
            os.close(write)
    finally:
        os.close(read)


def _into_place(tree: Tree, name: bytes, above: Directory, final: bytes, lower: os.stat_result) -> None:
    """Move a finished copy from the work directory into the upper layer, and book it."""
    copied = os.stat(name, dir_fd=tree.work, follow_symlinks=False)
    if not stat.S_ISDIR(lower.st_mode):
        tree.identities.note(copied, lower, "")
    with made_writable(above.upper):
        os.rename(name, final, src_dir_fd=tree.work, dst_dir_fd=above.upper)
    tree.space.added(copied, above.upper)


def _directory_into_place(tree: Tree, name: bytes, upper: int, above: Directory, final: bytes) -> None:
    """The same for a directory, open as `upper`: the kernel wants to write its `..`, whatever mode it was given."""
    with made_writable(upper):
        _into_place(tree, name, above, final, os.fstat(upper))


def copy_up_directory(tree: Tree, parts: Parts) -> None:
    """Copy a directory up, without what is in it, after its parents."""
    missing = []
    for depth in range(len(parts), 0, -1):
        if tree.directories.get(parts[:depth]).upper >= 0:
            break
        missing.append(parts[:depth])
    for step in reversed(missing):
        directory = tree.directories.get(step)
        above = tree.directories.get(step[:-1])
        found = os.fstat(directory.lower)
        tree.space.reserve(INODE_COST)
        tree.space.noted(tree.records.note(b"/".join(step), found))
        name = tree.work_name()
        os.mkdir(name, 0o700, dir_fd=tree.work)
        upper = os.open(name, DIRECTORY, dir_fd=tree.work)
        try:
            tree.identities.note(os.fstat(upper), found, f"/proc/self/fd/{upper}")
            metadata.copy_directory(directory.lower, upper)
            _directory_into_place(tree, name, upper, above, step[-1])
        except BaseException:
            os.close(upper)
            os.rmdir(name, dir_fd=tree.work)
            raise
        directory.upper = upper


def _link_others(tree: Tree, place: Place, above: Directory) -> None:
    """Give the copy the other names that its inode has in the real tree, so that they stay one file."""
    for other in tree.hard_links.others(place.attributes, place.parts):
        try:
            beside = tree.place(other)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                raise
            continue
        if beside.found is None or not os.path.samestat(beside.found, place.attributes):
            continue  # replaced or removed in the branch, or outside since the tree was read
        directory = tree.upper_directory(other[:-1])
        tree.note(beside)
        with made_writable(directory.upper):
            os.link(place.name, other[-1], src_dir_fd=above.upper, dst_dir_fd=directory.upper, follow_symlinks=False)
        tree.space.added(os.stat(other[-1], dir_fd=directory.upper, follow_symlinks=False), directory.upper)


def copy_subtree(tree: Tree, parts: Parts) -> None:
    """Copy a directory up with everything below, so that its upper part is whole and can be moved."""
    from sandlock_cow import listing  # it needs Tree, which needs this module

    pending = [parts]
    with ExitStack() as stack:
        while pending:
            here = pending.pop()
            upper = tree.upper_directory(here).upper
            if stat.S_IMODE(os.fstat(upper).st_mode) & 0o700 != 0o700 and os.geteuid() != 0:
                kept = os.dup(upper)
                stack.callback(os.close, kept)
                stack.enter_context(opened_up(kept))
            for name in listing.bare_names(tree, here):
                tree.trim()
                place = tree.require((*here, name))
                if place.is_directory:
                    pending.append((*here, name))
                else:
                    tree.raise_up(place)
