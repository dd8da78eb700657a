"""Operations on generated files: they are read, and nothing else."""

from __future__ import annotations

import os
from errno import EACCES, EEXIST, EINVAL, ELOOP, ENODATA, ENOTDIR
from stat import S_IFLNK, S_IFMT, S_IFREG
from struct import pack_into
from typing import TYPE_CHECKING

from sandlock_notif.action import Errno, InjectFd
from sandlock_notif.errors import Refusal
from sandlock_notif.fs.layers.layer import Layer
from sandlock_sys import inode, memfd

if TYPE_CHECKING:
    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.location import Location
    from sandlock_notif.fs.view import View
    from sandlock_notif.request import Request

__all__ = ["GeneratedLayer"]

_SIZE_AT = 48  # st_size in struct stat of asm/stat.h and asm-generic/stat.h
_STATX_SIZE_AT = 40  # stx_size in struct statx, linux/stat.h
_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, SHRINK, GROW and WRITE, linux/fcntl.h, 3.17
_DENIED = Errno(EACCES, "a generated file is only read")


class GeneratedLayer(Layer):
    """Operations on the files of a `VirtualLayer`."""

    def __init__(self, view: View) -> None:
        self._view = view

    def stat(self, request: Request, place: Location) -> bytes:
        """Return what the file that it stands for says, with the size of the generated content."""
        shown, size = self._shown(request, place)
        try:
            content = bytearray(inode.stat(shown))
        finally:
            os.close(shown)
        pack_into("=q", content, _SIZE_AT, size)
        return bytes(content)

    def statx(self, request: Request, place: Location, flags: int, mask: int) -> bytes:
        """As `stat`."""
        shown, size = self._shown(request, place)
        try:
            content = bytearray(inode.statx(shown, flags, mask))
        finally:
            os.close(shown)
        pack_into("=q", content, _STATX_SIZE_AT, size)
        return bytes(content)

    def access(self, request: Request, place: Location, mode: int, flags: int) -> None:
        """It may be read by everybody."""
        if mode & (os.W_OK | os.X_OK) and not self._is_link(place):
            raise Refusal(EACCES)

    def readlink(self, request: Request, place: Location) -> bytes:
        """Return where a generated link points."""
        if not self._is_link(place):
            raise Refusal(EINVAL)
        return self._content(request, place)

    def open(self, request: Request, place: Location, flags: int, mode: int) -> Outcome:
        """Give the child a sealed copy of the content."""
        if flags & os.O_CREAT and flags & os.O_EXCL:
            return Errno(EEXIST)
        if flags & os.O_DIRECTORY:
            return Errno(ENOTDIR)
        if self._is_link(place):
            return Errno(ELOOP)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            return _DENIED
        name = place.name.rstrip(b"/").decode("ascii", "replace")
        writable = _sealed(name, self._content(request, place))
        try:
            # Another open of the same file: one that was never writable, at its beginning.
            readable = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(writable)
        return InjectFd(readable, close_on_exec=bool(flags & os.O_CLOEXEC))

    def _is_link(self, place: Location) -> bool:
        return place.file is not None and place.file.is_link

    def _content(self, request: Request, place: Location) -> bytes:
        if place.file is None:
            raise Refusal(EACCES)
        return place.file.generate(self._view.process(request))

    def _shown(self, request: Request, place: Location) -> tuple[int, int]:
        """Return an fd of what the name really has, or of an empty file, and the size to be shown."""
        wanted = S_IFLNK if self._is_link(place) else S_IFREG
        try:
            found = os.open(
                place.name.rstrip(b"/"), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.directory
            )  # fmt: skip
        except OSError:  # nothing of that name, or nothing that can be seen
            found = -1
        if found >= 0:
            real = os.fstat(found)
            if S_IFMT(real.st_mode) == wanted:
                if self._view.magic.is_proc(real.st_dev, found):
                    return found, 0  # as everything there
                return found, len(self._content(request, place))
            os.close(found)
        content = self._content(request, place)
        return _sealed("generated", content), len(content)

    def mkdir(self, request: Request, place: Location, mode: int) -> Outcome:
        """It is there already."""
        return Errno(EEXIST)

    def mknod(self, request: Request, place: Location, mode: int, device: int) -> Outcome:
        """It is there already."""
        return Errno(EEXIST)

    def symlink(self, request: Request, target: bytes, place: Location) -> Outcome:
        """It is there already."""
        return Errno(EEXIST)

    def link(self, request: Request, source: Location, place: Location) -> Outcome:
        """It is there already."""
        return Errno(EEXIST)

    def unlink(self, request: Request, place: Location, flags: int) -> Outcome:
        """Refuse."""
        return _DENIED

    def rename(self, request: Request, source: Location, place: Location, flags: int) -> Outcome:
        """Refuse."""
        return _DENIED

    def chmod(self, request: Request, place: Location, mode: int) -> Outcome:
        """Refuse."""
        return _DENIED

    def chown(self, request: Request, place: Location, uid: int, gid: int) -> Outcome:
        """Refuse."""
        return _DENIED

    def utime(self, request: Request, place: Location, times: bytes | None) -> Outcome:
        """Refuse."""
        return _DENIED

    def truncate(self, request: Request, place: Location, length: int) -> Outcome:
        """Refuse."""
        return _DENIED

    def getxattr(self, request: Request, place: Location, name: bytes) -> bytes:
        """There are none."""
        raise Refusal(ENODATA)

    def listxattr(self, request: Request, place: Location) -> bytes:
        """There are none."""
        return b""

    def setxattr(self, request: Request, place: Location, name: bytes, value: bytes, flags: int) -> Outcome:
        """Refuse."""
        return _DENIED

    def removexattr(self, request: Request, place: Location, name: bytes) -> Outcome:
        """Refuse."""
        return _DENIED


def _sealed(name: str, content: bytes) -> int:
    """Return a memfd with this content, read-only for good, at its beginning."""
    made = memfd.create(os.fsencode(name)[:249])
    try:
        os.fchmod(made, 0o444)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(made, rest) :]
        memfd.add_seals(made, _SEALS)
        os.lseek(made, 0, os.SEEK_SET)
    except BaseException:
        os.close(made)
        raise
    return made
