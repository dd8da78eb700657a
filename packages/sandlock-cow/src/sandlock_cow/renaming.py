"""Rename files and directories, by the rules of renameat2(2)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from sandlock_cow import listing, overlay
from sandlock_cow.copy_up import copy_subtree
from sandlock_cow.model import Layer
from sandlock_cow.permissions import require, require_writable
from sandlock_cow.removal import free_directory, require_removable
from sandlock_cow.removing import remove_tree
from sandlock_cow.tree import failure
from sandlock_sys.rename import exchange

if TYPE_CHECKING:
    from sandlock_cow.paths import Parts
    from sandlock_cow.tree import Place, Tree

__all__ = ["RENAME_EXCHANGE", "RENAME_NOREPLACE", "rename"]

RENAME_NOREPLACE = 1  # linux/fs.h, 3.15
RENAME_EXCHANGE = 2  # linux/fs.h, 3.15


def rename(tree: Tree, source: Parts, target: Parts, flags: int) -> None:
    """Move what is at `source` to `target`, or let the two change places."""
    if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
        raise failure(errno.EINVAL)
    if not source or not target:
        raise failure(errno.EBUSY)
    tree.require_parents(source, target)
    old, new = tree.require(source), tree.place(target)
    if not _has_something_to_do(old, new, flags):
        return
    _refuse(tree, old, new, flags)
    old = _bring_up(tree, old, new)
    new = tree.place(target)  # a hard link of what came up has come up with it
    if flags == RENAME_EXCHANGE:
        new = _bring_up(tree, new, old)
        _swap(tree, old, new)
    else:
        _move(tree, old, new)
    tree.directories.forget(source)
    tree.directories.forget(target)


def _has_something_to_do(old: Place, new: Place, flags: int) -> bool:
    """The checks that come before permissions; False when both names are one file already."""
    source, target = old.parts, new.parts
    if flags == RENAME_EXCHANGE:
        new.attributes  # noqa: B018 - it raises ENOENT
    if flags == RENAME_NOREPLACE and new.found is not None:
        raise failure(errno.EEXIST)
    if old.is_directory and target[: len(source)] == source and target != source:
        raise failure(errno.EINVAL)
    if source[: len(target)] == target and target != source:
        raise failure(errno.EINVAL if flags == RENAME_EXCHANGE else errno.ENOTEMPTY)
    return new.found is None or not os.path.samestat(old.attributes, new.found)


def _refuse(tree: Tree, old: Place, new: Place, flags: int) -> None:
    require_removable(old)
    if new.found is None:
        require_writable(new.parent)
        require(new.parent.upper if new.parent.upper >= 0 else new.parent.lower, b".", os.W_OK | os.X_OK)
    else:
        require_removable(new)
    if flags != RENAME_EXCHANGE and new.found is not None:
        if old.is_directory and not new.is_directory:
            raise failure(errno.ENOTDIR)
        if new.is_directory and not old.is_directory:
            raise failure(errno.EISDIR)
    moved = [old] if flags != RENAME_EXCHANGE else [old, new]
    for place in moved:
        if place.is_directory and old.parts[:-1] != new.parts[:-1]:
            require(place.directory, place.name, os.W_OK)  # its `..` changes
    if flags == RENAME_EXCHANGE or new.found is None:
        return
    if new.is_directory and not listing.is_empty(tree, new.parts):
        raise failure(errno.ENOTEMPTY)


def _bring_up(tree: Tree, place: Place, other: Place) -> Place:
    """The whole of it into the upper layer: a directory that moves takes everything below along.

    `other` is where it goes.
    """
    if not place.is_directory:
        return tree.raise_up(place)
    if tree.directories.get(place.parts).lower >= 0:
        copy_subtree(tree, place.parts)
        place = tree.require(place.parts)
    # Whatever the real tree has, or will have, under the new name does not show through.
    overlay.set_opaque(place.parent.upper, place.name)
    tree.beside.hides(place.name, other.name)
    tree.space.changed(os.stat(place.name, dir_fd=place.parent.upper, follow_symlinks=False))
    return place


def _swap(tree: Tree, old: Place, new: Place) -> None:
    tree.note(old)
    tree.note(new)
    exchange(old.parent.upper, old.name, new.parent.upper, new.name)


def _move(tree: Tree, old: Place, new: Place) -> None:
    source = tree.upper_directory(old.parts[:-1]).upper
    target = tree.upper_directory(new.parts[:-1]).upper
    tree.note(old)
    tree.note(new)
    leaves_whiteout = tree.in_lower(old) is not None
    if old.is_directory and (new.layer is Layer.WHITEOUT or (new.layer is Layer.UPPER and new.found is not None)):
        # A directory cannot be renamed over a whiteout, nor over one with whiteouts in it: they change places.
        if new.layer is Layer.UPPER:
            free_directory(target, new.name)
        exchange(source, old.name, target, new.name)
        _clear(tree, source, old.name, new)
    else:
        hidden = os.stat(new.name, dir_fd=target, follow_symlinks=False) if new.layer is Layer.WHITEOUT else None
        if new.layer is Layer.UPPER and new.found is not None:
            tree.space.leaves(target, new.name, new.attributes)
        os.rename(old.name, new.name, src_dir_fd=source, dst_dir_fd=target)
        if hidden is not None:
            tree.space.removed(hidden)
        elif new.layer is Layer.UPPER:
            tree.gone(new.attributes)
    tree.space.changed(os.fstat(target))  # it may have grown by the name
    if leaves_whiteout:
        name = tree.whiteout()
        tree.space.added(os.stat(name, dir_fd=tree.work, follow_symlinks=False), source)
        os.rename(name, old.name, src_dir_fd=tree.work, dst_dir_fd=source)
        tree.whiteout_is_in(source)


def _clear(tree: Tree, directory: int, name: bytes, replaced: Place) -> None:
    """Remove what an exchange left at the old name: a whiteout, or an empty directory."""
    away = tree.work_name()
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    os.rename(name, away, src_dir_fd=directory, dst_dir_fd=tree.work)
    remove_tree(tree.work, away)
    if replaced.found is None:
        tree.space.removed(found)
    else:
        tree.gone(found)
