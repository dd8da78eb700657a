"""The snapshot of a copy-on-write branch in an image: a copy of a directory, and one digest over all of it.

Directories, regular files, symbolic links, FIFOs and overlay whiteouts (character device 0:0), with mode, time of last
change and user.* attributes. Nothing is followed, everything is opened below a directory fd.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.format import BLOCK, MAX_COW_ENTRIES, CowSnapshot

__all__ = ["copy_branch", "digest_branch"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 256
_MOST_HOLES = 16 << 30  # bytes in all; they are read like others, and cost who makes them nothing


def copy_branch(source: str, target: int) -> CowSnapshot:
    """Copy what is in the directory `source` into the empty directory fd `target`, onto the disk.

    Raises:
        ImageError: there is something that cannot be copied.
        OSError: it cannot be read, or written.

    """
    return _Walk(target).run(os.open(source, _DIRECTORY))


def digest_branch(fd: int) -> CowSnapshot:
    """Return what `copy_branch` returned, of the directory `fd`, which is closed."""
    return _Walk(-1).run(fd)


class _Walk:
    """Goes through a tree in order, digests every entry, and copies it where there is a target."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self._entries = 0
        self._holes = 0

    def run(self, fd: int) -> CowSnapshot:
        try:
            self._directory(fd, self._target, "", 0)
        finally:
            os.close(fd)
        return CowSnapshot(self._entries, self._digest.hexdigest())

    def _directory(self, fd: int, target: int, prefix: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise ImageError("cow", prefix, f"is deeper than {_DEEPEST} directories")
        for name in sorted(os.listdir(fd), key=os.fsencode):
            self._entries += 1
            if self._entries > MAX_COW_ENTRIES:
                raise ImageError("cow", "", f"has more than {MAX_COW_ENTRIES} entries")
            self._entry(fd, target, name, f"{prefix}{name}", depth)
        if target >= 0:
            os.fsync(target)

    def _entry(self, fd: int, target: int, name: str, path: str, depth: int) -> None:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        mode = status.st_mode
        fact: object = None
        attributes: list[tuple[str, str]] = []
        if stat.S_ISDIR(mode):
            self._note(path, mode, status.st_mtime_ns, None, [])
            if target >= 0:
                os.mkdir(name, 0o700, dir_fd=target)
            with _opened(fd, name, _DIRECTORY) as inner, _opened(target, name, _DIRECTORY) as made:
                self._directory(inner, made, f"{path}/", depth + 1)
                attributes = _attributes(inner, made)
                _finish(made, status)
            fact = "end"
        elif stat.S_ISREG(mode):
            self._holes += max(status.st_size - status.st_blocks * 512, 0)
            if self._holes > _MOST_HOLES:
                raise ImageError("cow", path, f"and the files before it have more than {_MOST_HOLES} bytes of holes")
            with _opened(fd, name, _READ) as inner, _opened(target, name, _NEW) as made:
                fact = [status.st_size, _copy(inner, made, path, status.st_size)]
                attributes = _attributes(inner, made)
                _finish(made, status)
        elif stat.S_ISLNK(mode):
            fact = link = os.readlink(name, dir_fd=fd)
            if target >= 0:
                os.symlink(link, name, dir_fd=target)
        elif stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and status.st_rdev == 0):
            if target >= 0:
                os.mknod(name, mode, 0, dir_fd=target)
        else:
            raise ImageError("cow", path, "is a socket or a device; a branch's snapshot has none")
        self._note(path, mode, status.st_mtime_ns, fact, attributes)

    def _note(self, path: str, mode: int, mtime_ns: int, fact: object, attributes: list[tuple[str, str]]) -> None:
        # The time of a link or a special file cannot be set again everywhere, so it is not part of the digest.
        time = mtime_ns if fact is not None and not isinstance(fact, str) else 0
        self._digest.update(json.dumps([path, mode, time, fact, attributes]).encode("ascii") + b"\n")


@contextmanager
def _opened(directory: int, name: str, flags: int) -> Iterator[int]:
    """Open `name`; where there is no directory, because nothing is copied, that is -1."""
    if directory < 0:
        yield -1
        return
    fd = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def _copy(source: int, target: int, path: str, size: int) -> str:
    """Copy a file's contents, with holes where there are zeros, and return their sha256."""
    digest = hashlib.sha256()
    buffer = bytearray(BLOCK)
    zeros = memoryview(bytes(BLOCK))
    done = 0
    while count := os.preadv(source, [buffer], done):
        data = memoryview(buffer)[:count]
        digest.update(data)
        if target >= 0 and not buffer.startswith(zeros[:count]):
            written = 0
            while written < count:
                written += os.pwrite(target, data[written:], done + written)
        done += count
    if done != size:
        raise ImageError("cow", path, f"changed its size from {size} to {done} while it was read")
    if target >= 0:
        os.ftruncate(target, size)
    return digest.hexdigest()


def _attributes(source: int, target: int) -> list[tuple[str, str]]:
    """Copy the user.* attributes, and return them."""
    found = []
    for name in sorted(os.listxattr(source)):
        if name.startswith("user."):
            value = os.getxattr(source, name)
            found.append((name, value.hex()))
            if target >= 0:
                os.setxattr(target, name, value)
    return found


def _finish(target: int, status: os.stat_result) -> None:
    """Give a copy its mode and time, and have it on the disk."""
    if target >= 0:
        os.fchmod(target, stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(target)
