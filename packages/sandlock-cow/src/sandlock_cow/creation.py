"""Make new names: files, directories, links, FIFOs and sockets."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from sandlock_cow import overlay
from sandlock_cow.model import Layer
from sandlock_cow.permissions import require, require_writable
from sandlock_cow.space import INODE_COST
from sandlock_cow.tree import failure
from sandlock_sys.rename import exchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_cow.paths import Parts
    from sandlock_cow.tree import Place, Tree

__all__ = ["create", "exact_mode", "link", "link_fd", "mkdir", "mknod", "symlink"]

_ACCESS_ACL = b"system.posix_acl_access"


def _new(tree: Tree, parts: Parts) -> Place:
    place = tree.place(parts)
    if place.found is not None:
        raise failure(errno.EEXIST)
    return place


def _ready(tree: Tree, place: Place) -> int:
    """The upper directory in which `place` may be made; everything that could refuse it is asked first."""
    require_writable(place.parent)
    if os.fstat(place.parent.upper if place.parent.upper >= 0 else place.parent.lower).st_nlink == 0:
        raise failure(errno.ENOENT)
    tree.space.reserve(INODE_COST)
    above = tree.upper_directory(place.parts[:-1])
    tree.note(place)
    return above.upper


def _make(tree: Tree, place: Place, make: Callable[[int], int]) -> int:
    """Run `make(directory)` where the name is free, and book what it made.

    A whiteout is taken away first, so that the kernel itself makes the entry in its directory, with the group and
    the default ACL that this one hands down, and put back when that fails.
    """
    upper = _ready(tree, place)
    saved = b""
    if place.layer is Layer.WHITEOUT:
        saved = tree.work_name()
        os.rename(place.name, saved, src_dir_fd=upper, dst_dir_fd=tree.work)
    try:
        result = make(upper)
    except BaseException:
        if saved:
            os.rename(saved, place.name, src_dir_fd=tree.work, dst_dir_fd=upper)
        raise
    if saved:
        tree.space.removed(os.stat(saved, dir_fd=tree.work, follow_symlinks=False))
        os.unlink(saved, dir_fd=tree.work)
    tree.made(os.stat(place.name, dir_fd=upper, follow_symlinks=False), upper)
    return result


def create(tree: Tree, place: Place, flags: int, mode: int) -> int:
    """Make the file that an open with O_CREAT did not find, and open it as asked for; the caller owns the fd."""
    if not place.parts:
        raise failure(errno.EISDIR)

    def make(upper: int) -> int:
        return os.open(place.name, flags | os.O_EXCL, mode & 0o7777, dir_fd=upper)

    fd = _make(tree, place, make)
    try:
        exact_mode(fd, mode)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            tree.space.watch(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def exact_mode(fd: int, mode: int) -> None:
    """Undo what this process's own umask took from the mode of a file just made.

    Not where the directory handed down an ACL: then the kernel ignored the umask and took the ACL's bits away.
    """
    found = os.fstat(fd).st_mode
    inherited = found & (stat.S_ISGID | stat.S_ISUID)
    wanted = mode & 0o7777 | inherited
    if stat.S_IMODE(found) == wanted:
        return
    path = f"/proc/self/fd/{fd}"
    try:
        os.getxattr(path, _ACCESS_ACL)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        os.chmod(path, wanted)


def _exact_mode_of(directory: int, name: bytes, mode: int) -> None:
    pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        exact_mode(pinned, mode)
    finally:
        os.close(pinned)


def mkdir(tree: Tree, parts: Parts, mode: int) -> None:
    """Make a directory. In place of a removed one it hides everything that was below."""
    place = _new(tree, parts)
    if place.layer is not Layer.WHITEOUT:
        upper = _ready(tree, place)
        os.mkdir(place.name, mode & 0o7777, dir_fd=upper)
        _exact_mode_of(upper, place.name, mode & 0o1777)
        tree.made(os.stat(place.name, dir_fd=upper, follow_symlinks=False), upper)
        return
    # The mark must be on it before it can be seen, or the removed files would come back with it.
    upper = _ready(tree, place)
    name = tree.work_name()
    os.mkdir(name, 0o700, dir_fd=tree.work)
    overlay.set_opaque(tree.work, name)
    tree.beside.hides(place.name)
    _hand_down(tree, name, upper)
    try:
        exchange(tree.work, name, upper, place.name)
    except OSError:
        os.rmdir(name, dir_fd=tree.work)
        raise
    # Last: the kernel moves no directory that its owner may not write.
    _exact_mode_of(upper, place.name, mode & 0o1777)
    tree.space.removed(os.stat(name, dir_fd=tree.work, follow_symlinks=False))
    os.unlink(name, dir_fd=tree.work)
    tree.made(os.stat(place.name, dir_fd=upper, follow_symlinks=False), upper)
    tree.directories.forget(parts)


def _hand_down(tree: Tree, name: bytes, upper: int) -> None:
    """What the kernel gives a directory made in a set-group-ID one."""
    above = os.fstat(upper)
    if not above.st_mode & stat.S_ISGID:
        return
    os.chown(name, -1, above.st_gid, dir_fd=tree.work, follow_symlinks=False)
    mode = os.stat(name, dir_fd=tree.work, follow_symlinks=False).st_mode
    os.chmod(f"/proc/self/fd/{tree.work}/{os.fsdecode(name)}", stat.S_IMODE(mode) | stat.S_ISGID)


def mknod(tree: Tree, parts: Parts, mode: int) -> None:
    """Make a file, FIFO or socket."""
    kind = stat.S_IFMT(mode) or stat.S_IFREG
    if kind == stat.S_IFDIR:
        raise failure(errno.EPERM)
    place = _new(tree, parts)
    if kind not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
        raise failure(errno.EPERM if kind in (stat.S_IFCHR, stat.S_IFBLK) else errno.EINVAL)

    def make(upper: int) -> int:
        os.mknod(place.name, kind | mode & 0o7777, dir_fd=upper)
        _exact_mode_of(upper, place.name, mode)
        return 0

    _make(tree, place, make)


def symlink(tree: Tree, target: bytes, parts: Parts) -> None:
    """Make a symlink."""
    if not target:
        raise failure(errno.ENOENT)
    place = _new(tree, parts)

    def make(upper: int) -> int:
        os.symlink(target, place.name, dir_fd=upper)
        return 0

    _make(tree, place, make)


def link(tree: Tree, source: Parts, target: Parts) -> None:
    """Give what is at `source` another name."""
    old = tree.require(source)
    place = _new(tree, target)
    require_writable(place.parent)
    if old.is_directory:
        # Asked here because nothing will be made there that would ask it.
        require(place.parent.upper if place.parent.upper >= 0 else place.parent.lower, b".", os.W_OK | os.X_OK)
        raise failure(errno.EPERM)
    old = tree.raise_up(old)

    def make(upper: int) -> int:
        os.link(old.name, place.name, src_dir_fd=old.parent.upper, dst_dir_fd=upper, follow_symlinks=False)
        return 0

    _make(tree, place, make)


def link_fd(tree: Tree, fd: int, target: Parts) -> None:
    """Name an unnamed file of the upper layer."""
    found = os.fstat(fd)
    if found.st_nlink:
        # It has a name already, maybe one outside: linked in here, a later write would change it there.
        raise failure(errno.EXDEV)
    if found.st_dev != os.fstat(tree.upper).st_dev or not stat.S_ISREG(found.st_mode):
        raise failure(errno.EXDEV)
    place = _new(tree, target)

    def make(upper: int) -> int:
        os.link(f"/proc/self/fd/{fd}", place.name, dst_dir_fd=upper, follow_symlinks=True)
        return 0

    _make(tree, place, make)
