"""The host's own files, reached through the view.

Acting is the deputy's, inside the sandbox's Landlock domain, on (directory fd, name) or on the very object that was
found. Nothing that the deputy is given can lead elsewhere: names are single components that it does not follow, and
objects are fds of this process.
"""

from __future__ import annotations

import os
from errno import EACCES, EEXIST, EISDIR, ELOOP, ENOTDIR, EOPNOTSUPP, EPERM, EXDEV
from stat import S_ISCHR, S_ISDIR, S_ISFIFO, S_ISLNK
from typing import TYPE_CHECKING

from sandlock_notif.action import CONTINUE, Errno, Value
from sandlock_notif.errors import Refusal
from sandlock_notif.fs.inspection import open_own
from sandlock_notif.fs.layers.layer import Layer
from sandlock_notif.fs.magic import link_text
from sandlock_notif.fs.origin import AT_FDCWD
from sandlock_sys import inode

if TYPE_CHECKING:
    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.location import Location
    from sandlock_notif.fs.waiting import WaitingOpens
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["HostLayer", "object_path"]

_TMPFILE = 0o20000000  # __O_TMPFILE, asm-generic/fcntl.h, 3.11
_EMPTY_PATH, _SYMLINK_FOLLOW = 0x1000, 0x400  # AT_*, linux/fcntl.h
_WHITEOUT = 4  # RENAME_WHITEOUT, linux/fs.h, 3.18
_OBJECT_ONLY = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW  # they speak of the name, and that has been looked up


def object_path(fd: int) -> bytes:
    """Return a path by which this process reaches exactly the object that `fd` pins, even if that is a symlink."""
    return b"/proc/self/fd/%d" % fd


class HostLayer(Layer):
    """Operations on the host's own files."""

    def __init__(self, files: Files, waiting: WaitingOpens) -> None:
        self._files = files
        self._waiting = waiting

    def stat(self, request: Request, place: Location) -> bytes:
        """Return struct stat of what is there."""
        return inode.stat(place.object)

    def statx(self, request: Request, place: Location, flags: int, mask: int) -> bytes:
        """Return struct statx of what is there; `flags` are AT_STATX_* bits."""
        return inode.statx(place.object, flags, mask)

    def access(self, request: Request, place: Location, mode: int, flags: int) -> None:
        """Raise the errno of faccessat2; `flags` is AT_EACCESS or 0."""
        inode.access(place.object, mode, flags)

    def readlink(self, request: Request, place: Location) -> bytes:
        """Return where the symlink points, as the child may know it."""
        magic = self._files.view.magic
        identity = place.identity
        if identity is None or not magic.is_proc(identity[0], place.object):
            return link_text(place.object)
        # Where a link of /proc leads is asked of the kernel by its name, in the directory that holds it.
        shown = os.readlink(object_path(place.object))
        above, _, name = shown.rpartition(b"/")
        directory = place.directory
        if directory < 0:  # the caller's /proc, which need not be ours
            path = b"/proc/%d/root%s" % (request.tid, above)
            directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if os.fstat(directory).st_dev != identity[0]:
                raise Refusal(EACCES, "the folder of this link cannot be told")
            text = magic.text(request, directory, name)
            if text is None and name == b"exe":
                text = self._files.view.original(os.stat(name, dir_fd=directory))
        finally:
            if directory != place.directory:
                os.close(directory)
        return self._files.view.shown(link_text(place.object)) if text is None else text

    def open(self, request: Request, place: Location, flags: int, mode: int) -> Outcome:
        """Open it and give the fd to the child."""
        files = self._files
        if flags & _TMPFILE:
            if not S_ISDIR(place.mode):
                return Errno(ENOTDIR)
            umask = files.umask(request)
            return self._open_at(request, place, place.object, b".", flags, mode, umask)
        if not place.exists:
            if place.awaited is not None:
                return Errno(EACCES, "only a directory may be made on the way to a denied path")
            return self._open_at(
                request, place, place.directory, place.name, flags | os.O_NOFOLLOW, mode, files.umask(request)
            )
        if flags & os.O_CREAT and flags & os.O_EXCL:
            return Errno(EEXIST)
        if S_ISLNK(place.mode) and not flags & os.O_PATH:
            return Errno(ENOTDIR if flags & os.O_DIRECTORY else ELOOP)
        if flags & os.O_PATH:
            if flags & os.O_DIRECTORY and not S_ISDIR(place.mode):
                return Errno(ENOTDIR)
            if not self._files.view.moves:
                # The kernel puts no O_PATH fd into another process, so it opens this one itself, reading the path
                # again. It is a handle without rights: each use is looked at as an object, however it was come by.
                return CONTINUE
            if S_ISLNK(place.mode):
                return Errno(EOPNOTSUPP, "the kernel gives no handle of a link to another process")
            flags = flags & (os.O_DIRECTORY | os.O_CLOEXEC) | os.O_NONBLOCK
        if flags & os.O_CREAT and S_ISDIR(place.mode):
            return Errno(EISDIR)
        flags &= ~_OBJECT_ONLY
        if S_ISFIFO(place.mode) or S_ISCHR(place.mode):
            return self._waiting.open(request, place, flags)
        own = open_own(self._files, request, place, flags)
        if own is not None:
            return own
        return self._open_at(request, place, AT_FDCWD, object_path(place.object), flags, 0, None)

    def _open_at(
        self, request: Request, place: Location, directory: int, name: bytes, flags: int, mode: int, umask: int | None
    ) -> Outcome:
        return self._files.post(
            request,
            "openat",
            directory,
            name,
            flags & 0xFFFFFFFF | os.O_CLOEXEC,
            mode,
            places=(place,),
            opens=True,
            close_on_exec=bool(flags & os.O_CLOEXEC),
            umask=umask,
        )

    def mkdir(self, request: Request, place: Location, mode: int) -> Outcome:
        """Make a directory."""
        return self._make(request, "mkdirat", place, mode)

    def mknod(self, request: Request, place: Location, mode: int, device: int) -> Outcome:
        """Make a file, FIFO, socket or device."""
        self._no_way(place)
        return self._make(request, "mknodat", place, mode, device)

    def _make(self, request: Request, call: str, place: Location, *arguments: int) -> Outcome:
        umask = self._files.umask(request)
        return self._files.post(
            request, call, place.directory, place.name, *arguments, places=(place,), umask=umask
        )  # fmt: skip

    def symlink(self, request: Request, target: bytes, place: Location) -> Outcome:
        """Make a symlink that says `target`."""
        self._no_way(place)
        return self._files.post(request, "symlinkat", target, place.directory, place.name, places=(place,))

    def link(self, request: Request, source: Location, place: Location) -> Outcome:
        """Give `source` another name."""
        self._no_way(place)
        if not place.exists and place.name.rstrip(b"/") not in (b"", b".", b".."):  # which answer EEXIST
            self._together(source, place)
        return self._files.post(
            request,
            "linkat",
            AT_FDCWD,
            object_path(source.object),
            place.directory,
            place.name,
            _SYMLINK_FOLLOW,  # of this one link, which leads to the object itself
            places=(source, place),
        )

    def unlink(self, request: Request, place: Location, flags: int) -> Outcome:
        """Remove it; `flags` is AT_REMOVEDIR or 0."""
        return self._files.post(request, "unlinkat", place.directory, place.name, flags, places=(place,))

    def rename(self, request: Request, source: Location, place: Location, flags: int) -> Outcome:
        """Move it; `flags` are RENAME_* bits."""
        if flags & _WHITEOUT:
            return Errno(EPERM, "a whiteout is a device node")  # LL-18
        self._no_way(place)
        self._together(source, place)
        return self._files.post(
            request,
            "renameat2",
            source.directory,
            source.name,
            place.directory,
            place.name,
            flags,
            places=(source, place),
        )

    def _together(self, source: Location, place: Location) -> None:
        """Refuse (EXDEV) to give what lies on one mount a name on another."""
        held = source.directory if source.directory >= 0 else source.object
        if not self._files.view.together(held, place.directory):
            raise Refusal(EXDEV)

    def _no_way(self, place: Location) -> None:
        """Refuse to put anything but a new directory where the way to a denied path will be."""
        if place.awaited is not None:
            raise Refusal(EACCES, "only a directory may be made on the way to a denied path")

    def chmod(self, request: Request, place: Location, mode: int) -> Outcome:
        """Set the permission bits."""
        self._files.check_metadata(place)
        return self._files.post(request, "fchmodat", AT_FDCWD, object_path(place.object), mode, places=(place,))

    def chown(self, request: Request, place: Location, uid: int, gid: int) -> Outcome:
        """Set owner and group; 0xFFFFFFFF keeps one."""
        self._files.check_metadata(place)
        return self._files.post(request, "fchownat", place.object, b"", uid, gid, _EMPTY_PATH, places=(place,))

    def utime(self, request: Request, place: Location, times: bytes | None) -> Outcome:
        """Set both times from two struct timespec; None: now."""
        self._files.check_metadata(place)
        when: int | bytes = 0 if times is None else times
        return self._files.post(request, "utimensat", place.object, b"", when, _EMPTY_PATH, places=(place,))

    def truncate(self, request: Request, place: Location, length: int) -> Outcome:
        """Cut or extend a regular file."""
        return self._files.post(request, "truncate", object_path(place.object), length, places=(place,))

    def getxattr(self, request: Request, place: Location, name: bytes) -> bytes:
        """Return the value of an extended attribute."""
        return os.getxattr(object_path(place.object), name)

    def listxattr(self, request: Request, place: Location) -> bytes:
        """Return the names of the extended attributes, each with a NUL."""
        names = os.listxattr(object_path(place.object))
        return b"".join(os.fsencode(name) + b"\0" for name in names)

    def setxattr(self, request: Request, place: Location, name: bytes, value: bytes, flags: int) -> Outcome:
        """Set an extended attribute; `flags` are XATTR_* bits."""
        self._files.check_metadata(place)
        os.setxattr(object_path(place.object), name, value, flags)
        return Value(0)

    def removexattr(self, request: Request, place: Location, name: bytes) -> Outcome:
        """Remove an extended attribute."""
        self._files.check_metadata(place)
        os.removexattr(object_path(place.object), name)
        return Value(0)
