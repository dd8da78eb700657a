"""An image's directory as it is written: under a name of its own, then put into place in one step.

The new image stands beside the old one as ".NAME.RANDOM.sandlock-new", locked while its saver lives. When all of it is
on the disk, the two names are exchanged and the old image is removed. Whatever stops a saver, the name stands for a
whole image: the old one or the new one. What it leaves behind is found by its name and its free lock, and removed by
the next save.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from errno import EEXIST, EINVAL, ENOENT, ENOSYS, ENOTEMPTY, EWOULDBLOCK
from typing import Self

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.folder import is_component
from sandlock_sys import rename
from sandlock_sys.errors import SyscallError

__all__ = ["NewImage", "remove_image"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SUFFIX = ".sandlock-new"
_LONGEST = 255 - len(_SUFFIX) - 18  # NAME_MAX less what is put around the name

# Every file and directory an image may have, but for what is below cow/: nothing else is ever removed.
_MEMBER = re.compile(
    r"(meta|policy)\.json|app_state\.bin|process(-[0-9]+)?(/(info|fds|memory_map)\.json"
    r"|/threads(/[0-9]+(\.json|\.[a-z0-9_]+\.bin))?|/memory(/(shared-)?[0-9]+\.bin)?)?"
)


class NewImage:
    """An image that is being written to `path`.

    A context manager: leaving without `publish` removes what was written.

    Attributes:
        path: where it will be.
        name: the last component of it.
        fd: of its directory, 0700; this object's.
        folder: fd of the directory above, this object's.

    """

    def __init__(self, path: str) -> None:
        """Make the directory, and remove what dead savers left beside it.

        Raises:
            ImageError: `path` has no usable last component, or is there and no image.
            OSError: the directory cannot be made.

        """
        above, self.name = os.path.split(os.path.normpath(path))
        self.path = path
        if not is_component(self.name) or len(os.fsencode(self.name)) > _LONGEST:
            raise ImageError(path, "", f"does not end in a name of 1 to {_LONGEST} bytes")
        self.fd = self.folder = -1
        self.folder = os.open(above or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _refuse_strangers(self.folder, self.name, path)
            _sweep(self.folder, self.name)
            self._sibling, self.fd = _make_sibling(self.folder, self.name)
        except BaseException:
            os.close(self.folder)
            raise
        self._published = False

    def make_folder(self, name: str) -> None:
        """Make the directory `name` in it."""
        os.mkdir(name, 0o700, dir_fd=self.fd)

    def create(self, name: str) -> int:
        """Create the file `name`, 0600, and return its fd, the caller's, for reading and writing."""
        return os.open(name, _NEW, 0o600, dir_fd=self.fd)

    def reopen(self, name: str) -> int:
        """Return a new fd, the caller's, of a file that was created and closed."""
        return os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)

    def write(self, name: str, data: bytes) -> None:
        """Create the file `name` with `data`, on the disk when this returns."""
        fd = self.create(name)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)

    def publish(self) -> None:
        """Put it into place, and remove the image that was there.

        Raises:
            ImageError: the file system cannot exchange two names, and there is an image already.

        """
        _sync_folders(self.fd)
        for _ in range(1000):  # another saver may put its image there, or take it away, between two of our tries
            try:
                rename.rename_new(self.folder, os.fsencode(self._sibling), self.folder, os.fsencode(self.name))
                replaced = False
                break
            except SyscallError as error:
                if error.errno not in (EEXIST, EINVAL, ENOSYS):
                    raise
                if error.errno != EEXIST and self._rename_plainly():
                    replaced = False
                    break
            _refuse_strangers(self.folder, self.name, self.path)
            try:
                rename.exchange(self.folder, os.fsencode(self._sibling), self.folder, os.fsencode(self.name))
                replaced = True
                break
            except SyscallError as error:
                if error.errno in (EINVAL, ENOSYS):
                    raise ImageError(
                        self.path, "", "this file system cannot exchange it with the image there; remove that one first"
                    ) from error
                if error.errno != ENOENT:
                    raise
        else:
            raise ImageError(self.path, "", "other savers kept changing it")
        self._published = True
        os.fsync(self.folder)
        if replaced:
            _remove_unused(self.folder, self._sibling)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if not self._published:
                # Ours by its lock: no sweep touches it before it is gone.
                _remove(self.folder, self._sibling)
        finally:
            os.close(self.fd)
            os.close(self.folder)

    def _rename_plainly(self) -> bool:
        """Where the file system has no RENAME_NOREPLACE: rename(2) replaces at most an empty directory."""
        try:
            os.rename(self._sibling, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        except OSError as error:
            if error.errno in (EEXIST, ENOTEMPTY):
                return False
            raise
        return True


def remove_image(path: str) -> None:
    """Remove the image at `path`, and nothing that is no part of an image.

    It is renamed first, so that a crash leaves no half of one under its name.

    Raises:
        ImageError: there is none, or it is no image.

    """
    above, name = os.path.split(os.path.normpath(path))
    folder = os.open(above or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _refuse_strangers(folder, name, path):
            raise ImageError(path, "", "there is no such image")
        aside = _sibling_name(name)
        os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
        _remove_unused(folder, aside)
    finally:
        os.close(folder)


def _sibling_name(name: str) -> str:
    return f".{name}.{secrets.token_hex(8)}{_SUFFIX}"


def _make_sibling(folder: int, name: str) -> tuple[str, int]:
    """Make a directory under a name of its own and lock it."""
    while True:
        sibling = _sibling_name(name)
        os.mkdir(sibling, 0o700, dir_fd=folder)
        try:
            fd = os.open(sibling, _DIRECTORY, dir_fd=folder)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        # Another saver's sweep may have taken it for litter before it was locked.
        if os.fstat(fd).st_nlink:
            return sibling, fd
        os.close(fd)


def _refuse_strangers(folder: int, name: str, path: str) -> bool:
    """Tell whether something of that name is there; refuse when it is not ours to replace."""
    while True:
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ImageError(path, "", "is there and no directory; nothing was written") from error
        try:
            # Nobody removes it while it is locked; who did before has left no link to it, and another one is there.
            fcntl.flock(fd, fcntl.LOCK_SH)
            if os.fstat(fd).st_nlink:
                _refuse_strange(fd, path)
                return True
        finally:
            os.close(fd)


def _refuse_strange(fd: int, path: str) -> None:
    names = os.listdir(fd)
    if names and "meta.json" not in names:
        raise ImageError(path, "", "is there and no image (it has no meta.json); nothing was written")
    strange = _strangers(fd)
    if strange:
        raise ImageError(path, "", f"has {strange}, which is no part of an image; nothing was written")


def _strangers(fd: int, prefix: str = "") -> str:
    """Return the path of something in the directory that no image has, or ""."""
    for name in sorted(os.listdir(fd)):
        member = f"{prefix}{name}"
        if member == "cow":
            continue
        if not _MEMBER.fullmatch(member):
            return member
        if _is_directory(fd, name):
            with _opened(fd, name) as inner:
                strange = _strangers(inner, f"{member}/")
            if strange:
                return strange
    return ""


def _sweep(folder: int, name: str) -> None:
    """Remove what savers of this name left that are no more."""
    pattern = re.compile(re.escape(f".{name}.") + "[0-9a-f]{16}" + re.escape(_SUFFIX))
    for found in os.listdir(folder):
        if pattern.fullmatch(found):
            _remove_unused(folder, found)


def _remove_unused(folder: int, name: str) -> None:
    """Remove a directory of ours unless a saver or a reader holds it; the next sweep finds it again."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=folder)
    except OSError:  # gone meanwhile, or a link or a file that someone put there: not ours
        return
    try:
        if os.fstat(fd).st_uid != os.geteuid() or _strangers(fd):
            return
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its saver may have exchanged it for the image before it was locked: then the name means that one, which others
        # read. As long as we hold the lock, nobody exchanges it.
        if os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=folder, follow_symlinks=False)):
            _remove(folder, name)
    except OSError as error:
        if error.errno not in (EWOULDBLOCK, ENOENT):
            raise
    finally:
        os.close(fd)


def _remove(folder: int, name: str) -> None:
    """Remove a directory and all below it, by directory fds: no link is followed, whatever changes meanwhile."""
    with _opened(folder, name) as fd:
        os.fchmod(fd, 0o700)  # a directory of a copy-on-write branch may be one that nobody can write to
        for entry in os.listdir(fd):
            try:
                if _is_directory(fd, entry):
                    _remove(fd, entry)
                else:
                    os.unlink(entry, dir_fd=fd)
            except FileNotFoundError:  # another saver's sweep was faster
                continue
    os.rmdir(name, dir_fd=folder)


def _sync_folders(fd: int) -> None:
    """Write all directories below `fd` to the disk, and itself."""
    for name in os.listdir(fd):
        if _is_directory(fd, name):
            with _opened(fd, name) as inner:
                _sync_folders(inner)
    os.fsync(fd)


def _is_directory(fd: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)


@contextlib.contextmanager
def _opened(folder: int, name: str) -> Iterator[int]:
    fd = os.open(name, _DIRECTORY, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)
