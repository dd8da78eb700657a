"""What every layer can do at a place: the few operations that all file calls come down to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.location import Location
    from sandlock_notif.request import Request

__all__ = ["Layer"]


class Layer(ABC):
    """One kind of storage below the view.

    What looks returns its result and raises `Refusal` or SyscallError; what acts returns the outcome of the request. It
    may take over the fds of the places that it is given; what it leaves there its caller closes.
    """

    @abstractmethod
    def stat(self, request: Request, place: Location) -> bytes:
        """Return struct stat of what is there."""

    @abstractmethod
    def statx(self, request: Request, place: Location, flags: int, mask: int) -> bytes:
        """Return struct statx of what is there; `flags` are AT_STATX_* bits."""

    @abstractmethod
    def access(self, request: Request, place: Location, mode: int, flags: int) -> None:
        """Raise the errno of faccessat2; `flags` is AT_EACCESS or 0."""

    @abstractmethod
    def readlink(self, request: Request, place: Location) -> bytes:
        """Return where the symlink points, as the child may know it."""

    @abstractmethod
    def open(self, request: Request, place: Location, flags: int, mode: int) -> Outcome:
        """Open it and give the fd to the child."""

    @abstractmethod
    def mkdir(self, request: Request, place: Location, mode: int) -> Outcome:
        """Make a directory."""

    @abstractmethod
    def mknod(self, request: Request, place: Location, mode: int, device: int) -> Outcome:
        """Make a file, FIFO, socket or device."""

    @abstractmethod
    def symlink(self, request: Request, target: bytes, place: Location) -> Outcome:
        """Make a symlink that says `target`."""

    @abstractmethod
    def link(self, request: Request, source: Location, place: Location) -> Outcome:
        """Give `source` another name."""

    @abstractmethod
    def unlink(self, request: Request, place: Location, flags: int) -> Outcome:
        """Remove it; `flags` is AT_REMOVEDIR or 0."""

    @abstractmethod
    def rename(self, request: Request, source: Location, place: Location, flags: int) -> Outcome:
        """Move it; `flags` are RENAME_* bits."""

    @abstractmethod
    def chmod(self, request: Request, place: Location, mode: int) -> Outcome:
        """Set the permission bits."""

    @abstractmethod
    def chown(self, request: Request, place: Location, uid: int, gid: int) -> Outcome:
        """Set owner and group; 0xFFFFFFFF keeps one."""

    @abstractmethod
    def utime(self, request: Request, place: Location, times: bytes | None) -> Outcome:
        """Set both times from two struct timespec; None: now."""

    @abstractmethod
    def truncate(self, request: Request, place: Location, length: int) -> Outcome:
        """Cut or extend a regular file."""

    @abstractmethod
    def getxattr(self, request: Request, place: Location, name: bytes) -> bytes:
        """Return the value of an extended attribute."""

    @abstractmethod
    def listxattr(self, request: Request, place: Location) -> bytes:
        """Return the names of the extended attributes, each with a NUL."""

    @abstractmethod
    def setxattr(self, request: Request, place: Location, name: bytes, value: bytes, flags: int) -> Outcome:
        """Set an extended attribute; `flags` are XATTR_* bits."""

    @abstractmethod
    def removexattr(self, request: Request, place: Location, name: bytes) -> Outcome:
        """Remove an extended attribute."""
