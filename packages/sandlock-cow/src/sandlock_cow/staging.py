"""Put the new content beside its place in the real tree, under names that nobody uses; and take it away again."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from sandlock_cow import copying, metadata
from sandlock_cow.errors import BranchError
from sandlock_cow.journal import Folder
from sandlock_cow.removing import remove_tree
from sandlock_cow.walking import open_below, open_readable, open_upper, opened_up
from sandlock_sys.syncfs import syncfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandlock_cow.delta import Delta
    from sandlock_cow.journal import Journal, Step
    from sandlock_cow.tree import Tree

__all__ = ["flush", "folders", "open_up", "restore", "stage", "unstage"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FLUSH_ONE_BY_ONE = 32  # above, one syncfs is quicker than an fsync for each


def folders(tree: Tree, steps: list[Step]) -> list[Folder]:
    """The directories of the real tree in which the steps make or remove names, as they are now."""
    paths = {step.folder for step in steps if step.temporary or step.action == "make"}
    paths |= {step.path.rpartition(b"/")[0] for step in steps if step.action in ("remove", "rmdir")}
    found = []
    for path in sorted(paths):
        fd = open_below(tree.lower, path)
        try:
            now = os.fstat(fd)
        finally:
            os.close(fd)
        found.append(Folder(path, stat.S_IMODE(now.st_mode), now.st_atime_ns, now.st_mtime_ns))
    return found


def open_up(tree: Tree, journal: Journal) -> None:
    """Make directories of ours writable in which the commit works and whose mode forbids it; `restore` undoes it."""
    if os.geteuid() == 0:
        return
    for folder in journal.folders:
        if folder.mode & 0o300 != 0o300:
            fd = open_below(tree.lower, folder.path)
            try:
                # Safety: the magic link leads to the pinned directory itself.
                os.chmod(f"/proc/self/fd/{fd}", folder.mode | 0o700)
            finally:
                os.close(fd)


def restore(tree: Tree, journal: Journal) -> None:
    """Give the directories the modes and times that they had."""
    for folder in reversed(journal.folders):
        try:
            fd = open_below(tree.lower, folder.path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            continue
        path = f"/proc/self/fd/{fd}"
        try:
            if stat.S_IMODE(os.fstat(fd).st_mode) != folder.mode:
                os.chmod(path, folder.mode)
            metadata.set_times(path, folder.atime_ns, folder.mtime_ns)
        finally:
            os.close(fd)


def stage(tree: Tree, journal: Journal, chosen: list[Delta], tick: Callable[[], None]) -> frozenset[int]:
    """Make everything that the steps will put in place, and note its inode numbers in them: all of which it returns."""
    anchors = _anchors(chosen)
    by_path = {delta.path: delta for delta in chosen}
    for step in journal.steps:
        if step.temporary:
            folder = open_below(tree.lower, step.folder)
            try:
                if step.action == "make":
                    os.mkdir(step.temporary, 0o700, dir_fd=folder)
                else:
                    _stage_one(tree, step, folder, by_path[step.path], anchors)
                step.inode = os.stat(step.temporary, dir_fd=folder, follow_symlinks=False).st_ino
            finally:
                os.close(folder)
            tick()
    return frozenset(step.inode for step in journal.steps if step.temporary)


_Anchors = dict[int, tuple[bytes, bytes]]


def _anchors(chosen: list[Delta]) -> _Anchors:
    """For upper files with several names: where a name of the same file already is in the real tree, unchanged."""
    return {
        delta.after.st_ino: (delta.path.rpartition(b"/")[0], delta.path.rpartition(b"/")[2])
        for delta in chosen
        if delta.same and delta.after is not None and not delta.is_directory and delta.after.st_nlink > 1
    }


def _stage_one(tree: Tree, step: Step, folder: int, delta: Delta, anchors: _Anchors) -> None:
    found = delta.after
    assert found is not None  # noqa: S101 - a place step has something to place
    if found.st_nlink > 1:
        anchor = anchors.get(found.st_ino)
        if anchor is not None and _link(tree, anchor, folder, step.temporary):
            return
        anchors[found.st_ino] = (step.folder, step.temporary)
    above, _, name = step.path.rpartition(b"/")
    upper = open_upper(tree.upper, above)
    try:
        with opened_up(upper):
            _copy(upper, name, folder, step.temporary, found)
    finally:
        os.close(upper)
    made = os.stat(step.temporary, dir_fd=folder, follow_symlinks=False)
    before = delta.before
    if before is not None and (made.st_uid, made.st_gid) != (found.st_uid, found.st_gid):
        raise BranchError(f"{os.fsdecode(step.path)!r} cannot keep its owner {found.st_uid}:{found.st_gid}")
    if before is not None and before.st_uid != found.st_uid and os.geteuid() != 0:
        raise BranchError(f"{os.fsdecode(step.path)!r} belongs to user {before.st_uid}: replacing it would change that")


def _link(tree: Tree, anchor: tuple[bytes, bytes], folder: int, name: bytes) -> bool:
    source = open_below(tree.lower, anchor[0])
    try:
        os.link(anchor[1], name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM):
            raise
        return False
    finally:
        os.close(source)
    return True


def _copy(upper: int, name: bytes, folder: int, temporary: bytes, found: os.stat_result) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=upper), temporary, dir_fd=folder)
        metadata.copy_link(folder, temporary, found)
    elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
        os.mknod(temporary, found.st_mode, dir_fd=folder)
        metadata.copy_link(folder, temporary, found)
    elif kind == stat.S_IFREG:
        _copy_file(upper, name, folder, temporary)
    else:
        raise BranchError(f"{os.fsdecode(name)!r} is a device, which a branch does not make")


def _copy_file(upper: int, name: bytes, folder: int, temporary: bytes) -> None:
    read = open_readable(upper, name)
    try:
        write = os.open(temporary, _WRITE, 0o600, dir_fd=folder)
        try:
            opened = os.fstat(read)
            if opened.st_size:
                copying.copy_data(read, write, opened.st_size)
            metadata.copy_open_file(read, write, opened, upper=True)
        finally:
            os.close(write)
    finally:
        os.close(read)


def unstage(tree: Tree, journal: Journal) -> None:
    """Remove everything staged that is still there, and put the directories back as they were."""
    open_up(tree, journal)
    for step in journal.steps:
        if step.temporary:
            try:
                folder = open_below(tree.lower, step.folder)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                continue
            try:
                remove_tree(folder, step.temporary)
            finally:
                os.close(folder)
    restore(tree, journal)


def flush(tree: Tree, places: Iterable[tuple[bytes, bytes]]) -> None:
    """Bring names in directories, given as (directory, name), to the disk."""
    places = list(places)
    if len(places) > _FLUSH_ONE_BY_ONE:
        root = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.lower)
        try:
            syncfs(root)
        finally:
            os.close(root)
        return
    for folder, name in places:
        path = folder + b"/" + name if folder and name else folder or name
        try:
            fd = open_below(tree.lower, path, _READ)
        except OSError as error:
            # A symlink, FIFO or socket has no data; an unreadable file is flushed with its directory's journal.
            if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EACCES, errno.ENOENT, errno.ENOTDIR):
                raise
            continue
        try:
            if stat.S_IFMT(os.fstat(fd).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
                os.fsync(fd)
        finally:
            os.close(fd)
