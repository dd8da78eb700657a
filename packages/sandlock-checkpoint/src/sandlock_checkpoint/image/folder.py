"""An image's directory as it is read: opened once, only by names of the format, nothing followed, nobody else's."""

from __future__ import annotations

import fcntl
import os
import stat
from errno import ELOOP, ENOENT, ENOTDIR, ENXIO

from sandlock_checkpoint.errors import ImageError

__all__ = ["ImageFolder", "check_owner", "is_component"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO in a file's place must not hold the reader before it is seen to be one.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def is_component(name: str) -> bool:
    """Tell whether `name` names an entry of a directory, and none but that one's own."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name and len(os.fsencode(name)) <= 255


def check_owner(status: os.stat_result, name: str, owner: int) -> None:
    """Refuse what someone else owns, may read or may write.

    Raises:
        ImageError: it is so; the reason says what to do.

    """
    if status.st_uid != owner:
        raise ImageError(name, "", f"belongs to user {status.st_uid}, not to {owner}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ImageError(name, "", f"others have rights to it (mode {mode:04o}); do: chmod -R go= on the image")


class ImageFolder:
    """A directory of an image and those below it. Holds a shared lock, so that no save removes it meanwhile.

    Attributes:
        path: as the caller named it, for messages.
        fd: of the directory; this object's.
        owner: user id that everything in it must have.

    """

    def __init__(self, path: str, owner: int, fd: int) -> None:
        self.path = path
        self.owner = owner
        self.fd = fd
        self._inner: dict[str, int] = {}

    @classmethod
    def open(cls, path: str, owner: int | None = None, directory: int | None = None) -> ImageFolder:
        """Open the image at `path`, below the directory fd `directory` where one is given.

        Raises:
            ImageError: there is no directory of that name, it is a link, or it is not `owner`'s (the caller's) alone.

        """
        owner = os.geteuid() if owner is None else owner
        while True:
            try:
                fd = os.open(path, _DIRECTORY, dir_fd=directory)
            except OSError as error:
                raise ImageError(path, "", _not_opened(error, "directory")) from error
            try:
                check_owner(os.fstat(fd), path, owner)
                fcntl.flock(fd, fcntl.LOCK_SH)
                removed = not os.fstat(fd).st_nlink
            except BaseException:
                os.close(fd)
                raise
            if not removed:
                break
            # A save put another image here and removed this one, before it was locked.
            os.close(fd)
        return cls(path, owner, fd)

    def parent(self) -> int:
        """Return a new fd of the directory that this one is in, the caller's."""
        return os.open("..", _DIRECTORY, dir_fd=self.fd)

    def open_file(self, name: str, size: int | None = None) -> tuple[int, int]:
        """Open a regular file and return its fd, the caller's, and its size.

        Arguments:
            name: relative, in at most two directories of the format.
            size: that it must have.

        Raises:
            ImageError: it is missing, of another type or size, has a second name, or is open to others.

        """
        folder, _, last = name.rpartition("/")
        try:
            fd = os.open(last, _FILE, dir_fd=self._folder(folder))
        except OSError as error:
            raise ImageError(name, "", _not_opened(error, "file")) from error
        try:
            status = os.fstat(fd)
            _check_file(status, name, self.owner, size)
        except BaseException:
            os.close(fd)
            raise
        return fd, status.st_size

    def read(self, name: str, limit: int) -> bytes:
        """Return the contents of a file of at most `limit` bytes.

        Raises:
            ImageError: as `open_file`, or it is larger.

        """
        fd, size = self.open_file(name)
        try:
            if size > limit:
                raise ImageError(name, "", f"has {size} bytes, more than {limit}")
            parts = []
            missing = size
            while missing:
                part = os.read(fd, missing)
                if not part:
                    raise ImageError(name, "", f"ends {missing} bytes before its size")
                parts.append(part)
                missing -= len(part)
            return b"".join(parts)
        finally:
            os.close(fd)

    def names(self, folder: str = "") -> set[str]:
        """Return the names in this directory or one below it."""
        try:
            return set(os.listdir(self._folder(folder)))
        except OSError as error:
            raise ImageError(folder or self.path, "", _not_opened(error, "directory")) from error

    def open_folder(self, name: str) -> int:
        """Return a new fd, the caller's, of a directory in this one; its owner and mode are not looked at."""
        try:
            return os.open(name, _DIRECTORY, dir_fd=self.fd)
        except OSError as error:
            raise ImageError(name, "", _not_opened(error, "directory")) from error

    def close(self) -> None:
        """Close everything, and let go of the lock."""
        for fd in (*self._inner.values(), *([self.fd] if self.fd >= 0 else [])):
            os.close(fd)
        self._inner = {}
        self.fd = -1

    def _folder(self, name: str) -> int:
        """Return the fd of an inner directory, opened once, step by step."""
        if not name:
            return self.fd
        if name not in self._inner:
            above, _, last = name.rpartition("/")
            try:
                fd = os.open(last, _DIRECTORY, dir_fd=self._folder(above))
            except OSError as error:
                raise ImageError(name, "", _not_opened(error, "directory")) from error
            try:
                check_owner(os.fstat(fd), name, self.owner)
            except BaseException:
                os.close(fd)
                raise
            self._inner[name] = fd
        return self._inner[name]


def _check_file(status: os.stat_result, name: str, owner: int, size: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(name, "", "is no regular file")
    check_owner(status, name, owner)
    if status.st_nlink != 1:
        # A second name may be one that others can write through, or a way to have another file read.
        raise ImageError(name, "", "has a second name (a hard link)")
    if size is not None and status.st_size != size:
        raise ImageError(name, "", f"has {status.st_size} bytes, not {size}")


def _not_opened(error: OSError, kind: str) -> str:
    if error.errno == ENOENT:
        return f"there is no such {kind}"
    if error.errno in (ELOOP, ENOTDIR, ENXIO):
        return f"is no {kind}, or a link"
    return f"cannot be opened: {error.strerror}"
