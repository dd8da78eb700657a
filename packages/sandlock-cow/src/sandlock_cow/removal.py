"""Remove names: a whiteout where the real tree has one, nothing where it has not."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from sandlock_cow import listing
from sandlock_cow.model import Layer
from sandlock_cow.permissions import refuse_sticky, require, require_writable
from sandlock_cow.removing import remove_tree
from sandlock_cow.tree import failure
from sandlock_cow.walking import DIRECTORY
from sandlock_sys.rename import exchange

if TYPE_CHECKING:
    from sandlock_cow.paths import Parts
    from sandlock_cow.tree import Place, Tree

__all__ = ["free_directory", "hide", "require_removable", "rmdir", "unlink"]


def require_removable(place: Place) -> None:
    """EACCES or EPERM where this user may not remove the name."""
    require_writable(place.parent)
    above = place.parent.upper if place.parent.upper >= 0 else place.parent.lower
    require(above, b".", os.W_OK | os.X_OK)
    refuse_sticky(above, place.attributes)


def hide(tree: Tree, place: Place) -> None:
    """Take the name at `place`, which is no directory of the upper layer, out of sight."""
    tree.note(place)
    in_lower = tree.in_lower(place) is not None
    upper = tree.upper_directory(place.parts[:-1]).upper
    if place.layer is Layer.UPPER:
        tree.space.leaves(upper, place.name, place.attributes)
    if in_lower:
        name = tree.whiteout()
        whiteout = os.stat(name, dir_fd=tree.work, follow_symlinks=False)
        try:
            os.rename(name, place.name, src_dir_fd=tree.work, dst_dir_fd=upper)
        except OSError:
            os.unlink(name, dir_fd=tree.work)
            raise
        tree.whiteout_is_in(upper)
        tree.space.added(whiteout, upper)
    elif place.layer is Layer.UPPER:
        os.unlink(place.name, dir_fd=upper)
    if place.layer is Layer.UPPER:
        tree.gone(place.attributes)


def unlink(tree: Tree, parts: Parts) -> None:
    """Remove anything but a directory."""
    place = tree.require(parts)
    require_removable(place)
    if place.is_directory:
        raise failure(errno.EISDIR)
    hide(tree, place)


def rmdir(tree: Tree, parts: Parts) -> None:
    """Remove an empty directory."""
    if not parts:
        raise failure(errno.EBUSY)
    place = tree.require(parts)
    require_removable(place)
    if not place.is_directory:
        raise failure(errno.ENOTDIR)
    if not listing.is_empty(tree, parts):
        raise failure(errno.ENOTEMPTY)
    if place.layer is Layer.LOWER:
        hide(tree, place)
    else:
        _remove_upper(tree, place)
    tree.directories.forget(parts)


def free_directory(directory: int, name: bytes) -> None:
    """Let an upper directory that is about to go be moved: the kernel wants to write its `..`."""
    pinned = os.open(name, DIRECTORY, dir_fd=directory)
    try:
        mode = stat.S_IMODE(os.fstat(pinned).st_mode)
        if mode & 0o700 != 0o700 and os.geteuid() != 0:
            # Safety: the magic link leads to the pinned directory itself.
            os.chmod(f"/proc/self/fd/{pinned}", mode | 0o700)
    finally:
        os.close(pinned)


def _remove_upper(tree: Tree, place: Place) -> None:
    """An upper directory, in which there may be whiteouts, goes to the work directory and is cleared there."""
    upper = place.parent.upper
    tree.note(place)
    free_directory(upper, place.name)
    if tree.in_lower(place) is not None:
        name = tree.whiteout()
        tree.space.added(os.stat(name, dir_fd=tree.work, follow_symlinks=False), upper)
        exchange(tree.work, name, upper, place.name)
        tree.whiteout_is_in(upper)
    else:
        name = tree.work_name()
        os.rename(place.name, name, src_dir_fd=upper, dst_dir_fd=tree.work)
    remove_tree(tree.work, name)
    tree.gone(place.attributes)
