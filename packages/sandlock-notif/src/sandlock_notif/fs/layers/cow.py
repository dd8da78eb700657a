"""Copy-on-write: a directory of the view whose changes go to a branch, and nothing to the real tree.

The branch acts, not the deputy: its storage is none of the sandbox's business, and the real tree is only read. What the
child gets is an fd of the upper file, or of the real one opened for reading. So the child's Landlock domain grants the
real tree for reading and executing alone, and a call that nobody served cannot write there either.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from errno import EACCES, EBUSY, EINVAL, ENOENT, ENOTDIR, EOPNOTSUPP, EXDEV
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG
from struct import unpack
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from sandlock_cow import overlay
from sandlock_cow.model import Layer as Where
from sandlock_notif.action import Errno, InjectFd, Value
from sandlock_notif.errors import Refusal
from sandlock_notif.fs.layers.layer import Layer
from sandlock_notif.fs.location import Location
from sandlock_notif.fs.marks import Refused
from sandlock_sys import inode
from sandlock_sys.shortcut import BranchPlace

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_cow.branch import Branch
    from sandlock_notif.action import Action
    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.marks import Identity, Rule
    from sandlock_notif.fs.mount import Mount
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request
    from sandlock_sys.shortcut import Shortcut

__all__ = ["CowLayer", "locate"]

Asked = ParamSpec("Asked")
Result = TypeVar("Result")
_TMPFILE = 0o20000000  # __O_TMPFILE, asm-generic/fcntl.h, 3.11
_REMOVEDIR = 0x200  # AT_REMOVEDIR, linux/fcntl.h
_NOW, _OMIT = (1 << 30) - 1, (1 << 30) - 2  # UTIME_NOW, UTIME_OMIT, linux/stat.h
_BILLION = 10**9
_LARGE = 1 << 20  # bytes; a larger file is copied up in a thread
_KEEP = 0xFFFFFFFF  # an id that stays as it is
_WHITEOUT = 4  # RENAME_WHITEOUT, linux/fs.h


def locate(mount: Mount, path: bytes) -> Location:
    """Return the place of a branch's path, absent or not; OSError where its directory is not there."""
    assert mount.cow is not None  # noqa: S101  # the caller asked for it
    found = mount.cow.branch.lookup(path)
    place = Location(-1, path.rpartition(b"/")[2] or b".")
    place.mount, place.path = mount, path
    if found.stat is not None:
        place.identity = found.stat.st_dev, found.stat.st_ino
        place.mode = found.stat.st_mode
    return place


def _asked(act: Callable[Asked, Result], *arguments: Asked.args, **named: Asked.kwargs) -> Result:
    """Return what `act` does; its errno is the caller's."""
    try:
        return act(*arguments, **named)
    except OSError as error:
        raise Refusal(error.errno or EACCES) from error


class CowLayer(Layer):
    """The layer of one branch.

    Arguments:
        branch: which the layer only borrows.

    """

    def __init__(self, branch: Branch) -> None:
        self.branch = branch
        self.files: Files | None = None
        self.rules: dict[bytes, Rule] = {}  # what the view says about paths of the branch, whatever lies there
        self.devices: set[int] = set()  # of file systems below the folder that were looked at, and may be shown
        # Where directories of the real tree went that an fd of a process may still lead to: the path that the kernel
        # tells of it -> O_PATH fd of the upper directory that took its place, None when it was removed.
        self._moved: dict[bytes, int | None] = {}
        self._shortcut: Shortcut | None = None
        self._layers: tuple[int, ...] = ()  # O_PATH fds of ours, for the shortcut

    def place(self, shortcut: Shortcut, names: frozenset[bytes], root: Identity) -> BranchPlace | None:
        """Say what `shortcut` may serve of the branch, which tells it of its operations from now on.

        Arguments:
            shortcut: of the sandbox.
            names: of path components that it does not serve.
            root: of the view.

        """
        beside = self.branch.beside
        if self._shortcut is None:
            self._shortcut = shortcut
            beside.watch(shortcut)
        if beside.layers is None:
            return None
        if not self._layers:
            self._layers = tuple([os.dup(fd) for fd in beside.layers])
        upper, lower = self._layers
        found = os.fstat(lower)
        identity = found.st_dev, found.st_ino
        ruled = [path.rpartition(b"/")[2] for path in self.rules]
        return BranchPlace(
            upper,
            lower,
            (os.fsencode(self.branch.upper), os.fsencode(self.branch.lower)),
            identity,
            names=names.union(ruled, beside.opaque),
            whole=identity == root,
            starts=not self._moved,
        )

    def close(self) -> None:
        """Close every fd; the branch stays open."""
        if self._shortcut is not None:
            self.branch.beside.watch(None)
        for layer in self._layers:
            os.close(layer)
        self._shortcut, self._layers = None, ()
        for fd in self._moved.values():
            if fd is not None:
                os.close(fd)
        self._moved.clear()

    def check(self, path: bytes) -> None:
        """Refuse (EACCES) what is a denied path of the branch or below one."""
        if not self.rules or not path:
            return
        names = path.split(b"/")
        for count in range(1, len(names) + 1):
            rule = self.rules.get(b"/".join(names[:count]))
            if isinstance(rule, Refused):
                raise Refusal(EACCES, rule.reason)

    def path_of(self, fd: int) -> bytes | None:
        """Return the branch's path of what `fd` pins; None outside. ENOENT (Refusal) for a directory that is gone."""
        shown = os.readlink(b"/proc/self/fd/%d" % fd)
        path = self.branch.inside(shown)
        if path is None or not self._moved or self.stores(fd):
            return path
        names = path.split(b"/")
        for count in range(len(names), 0, -1):
            prefix = b"/".join(names[:count])
            if prefix in self._moved:
                target = self._moved[prefix]
                above = None if target is None else self.branch.inside(os.readlink(b"/proc/self/fd/%d" % target))
                if above is None or above.endswith(b" (deleted)"):
                    raise Refusal(ENOENT)
                return b"/".join([part for part in (above, *names[count:]) if part])
        return path

    def directory_of(self, fd: int) -> bytes:
        """Return the branch's path of the directory that `fd` pins; ENOTDIR (Refusal) for anything else."""
        path = self.path_of(fd)
        if path is None:
            raise Refusal(ENOENT)
        if not S_ISDIR(os.fstat(fd).st_mode):
            raise Refusal(ENOTDIR)
        return path

    def shown(self, text: bytes) -> bytes:
        """Return what the child may be told of a path that the kernel gave: never the storage's."""
        upper = os.fsencode(self.branch.upper)
        if text == upper or text.startswith(upper + b"/"):
            return os.fsencode(self.branch.lower) + text[len(upper) :]
        if text.startswith(os.fsencode(self.branch.path) + b"/"):
            return os.fsencode(self.branch.lower) + b" (deleted)"  # removed, in a place that nobody needs to know
        return text

    def pinned(self, place: Location) -> int:
        """Return an O_PATH fd, the caller's, of what is there."""
        if place.object >= 0:
            return os.dup(place.object)
        # What a lookup tells is good until the next call on the branch, which another thread may make: then the number
        # of the directory's fd is another one's, that of the real directory say.
        with self.branch.beside:
            found = _asked(self.branch.lookup, place.path)
            return _asked(os.open, found.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found.directory)

    def stores(self, fd: int) -> bool:
        """Whether what `fd` pins is, or was, in the upper layer: what is removed goes elsewhere in the storage."""
        return os.readlink(b"/proc/self/fd/%d" % fd).startswith(os.fsencode(self.branch.path) + b"/")

    def stored(self, name: bytes) -> bytes:
        """Return what a program's attribute is called in the upper layer."""
        return overlay.escape(name)

    def _shown_as(self, fd: int) -> Identity | None:
        """Return the (st_dev, st_ino) that programs see for what `fd` pins, where the kernel tells another."""
        found = os.fstat(fd)
        shown = self.branch.identity(found)
        return None if shown == (found.st_dev, found.st_ino) or not self.stores(fd) else shown

    def stat_of(self, fd: int) -> bytes:
        """Return the attributes of the file that holds the content now, with the numbers that it always had."""
        shown, content = self._shown_as(fd), inode.stat(fd)
        return content if shown is None else inode.renumber_stat(content, *shown)

    def stat(self, request: Request, place: Location) -> bytes:
        """Return what `stat_of` does, of what is there."""
        fd = self.pinned(place)
        try:
            return self.stat_of(fd)
        finally:
            os.close(fd)

    def statx(self, request: Request, place: Location, flags: int, mask: int) -> bytes:
        """As `stat`."""
        fd = self.pinned(place)
        try:
            shown, content = self._shown_as(fd), inode.statx(fd, flags, mask)
            return content if shown is None else inode.renumber_statx(content, *shown)
        finally:
            os.close(fd)

    def access(self, request: Request, place: Location, mode: int, flags: int) -> None:
        """Ask the branch."""
        _asked(self.branch.access, place.path, mode)

    def readlink(self, request: Request, place: Location) -> bytes:
        """Ask the branch."""
        return _asked(self.branch.readlink, place.path)

    def open(self, request: Request, place: Location, flags: int, mode: int) -> Outcome:
        """Give the child an fd of the upper file, or of the real one for reading."""
        assert self.files is not None  # noqa: S101  # attached
        if S_ISCHR(place.mode) or S_ISBLK(place.mode):
            # Safety: Landlock does not see what is opened here, and a mount would be one without devices (nodev).
            return Errno(EACCES, "devices are not opened in a branch")
        if flags & os.O_PATH:
            if S_ISLNK(place.mode):
                return Errno(EOPNOTSUPP, "the kernel gives no handle of a link to another process")
            flags = flags & (os.O_DIRECTORY | os.O_CLOEXEC) | os.O_RDONLY | os.O_NONBLOCK
        if flags & (os.O_CREAT | _TMPFILE):
            mode &= ~self.files.umask(request)
        if S_ISFIFO(place.mode) and not flags & os.O_NONBLOCK:
            try:
                with self.branch.beside:  # as in `pinned`
                    ready = self.branch.prepare_open(place.path, flags, mode)
                    place.object = os.open(ready.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=ready.directory)
            except OSError as error:
                return Errno(error.errno or EACCES)
            return self.files.waiting.open(request, place, flags & ~(os.O_CREAT | os.O_NOFOLLOW), direct=True)
        writes = flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_TRUNC
        if writes and S_ISREG(place.mode):
            found = self.branch.lookup(place.path)
            if found.layer is Where.LOWER and found.stat is not None and found.stat.st_size > _LARGE:
                return self._later(lambda: self._open(place, flags, mode))
        return self._open(place, flags, mode)

    def _open(self, place: Location, flags: int, mode: int) -> Action:
        try:
            fd = self.branch.open(place.path, flags, mode)
        except OSError as error:
            return Errno(error.errno or EACCES)
        if self.files is not None and not flags & (os.O_ACCMODE | os.O_TRUNC | _TMPFILE):
            self.files.lend()
        return InjectFd(fd, close_on_exec=bool(flags & os.O_CLOEXEC))

    async def _later(self, act: Callable[[], Action]) -> Action:
        """Do what copies much in a thread."""
        assert self.files is not None  # noqa: S101  # attached
        return await asyncio.get_running_loop().run_in_executor(self.files.view.systems.pool, act)

    def _do(self, act: Callable[..., None], *arguments: object) -> Outcome:
        try:
            act(*arguments)
        except OSError as error:
            return Errno(error.errno or EACCES)
        return Value(0)

    def _umask(self, request: Request) -> int:
        assert self.files is not None  # noqa: S101  # attached
        return self.files.umask(request)

    def mkdir(self, request: Request, place: Location, mode: int) -> Outcome:
        """Ask the branch."""
        return self._do(self.branch.mkdir, place.path, mode & ~self._umask(request))

    def mknod(self, request: Request, place: Location, mode: int, device: int) -> Outcome:
        """Ask the branch."""
        return self._do(self.branch.mknod, place.path, mode & ~self._umask(request), device)

    def symlink(self, request: Request, target: bytes, place: Location) -> Outcome:
        """Ask the branch."""
        return self._do(self.branch.symlink, target, place.path)

    def link(self, request: Request, source: Location, place: Location) -> Outcome:
        """Ask the branch; what has no name yet gets its first one."""
        if source.object >= 0 and not os.fstat(source.object).st_nlink:
            return self._do(self.branch.link_fd, source.object, place.path)
        return self._do(self.branch.link, source.path, place.path)

    def unlink(self, request: Request, place: Location, flags: int) -> Outcome:
        """Ask the branch."""
        if not flags & _REMOVEDIR:
            return self._do(self.branch.unlink, place.path)
        outcome = self._do(self.branch.rmdir, place.path)
        if outcome == Value(0):
            self._note(place.path, None)
        return outcome

    def rename(self, request: Request, source: Location, place: Location, flags: int) -> Outcome:
        """Ask the branch, and remember where directories went."""
        if flags & _WHITEOUT:
            return Errno(EINVAL)
        for moved in (source, place):
            if any(path.startswith(moved.path + b"/") for path in self.rules):
                return Errno(EBUSY, "a path below it means something of its own")
            if moved.is_directory and self.files is not None and self.files.view.denials:
                # It would be copied, with what may be another name of something denied. Programs copy it themselves.
                return Errno(EXDEV)
        outcome = self._do(self.branch.rename, source.path, place.path, flags)
        if outcome == Value(0) and source.path != place.path:
            if source.is_directory:
                self._note(source.path, place.path)
            if place.is_directory and place.exists:
                self._note(place.path, source.path if flags else None)
        return outcome

    def _note(self, path: bytes, now: bytes | None) -> None:
        fd = None
        if now is not None:
            with suppress(OSError), self.branch.beside:
                found = self.branch.lookup(now)
                fd = os.open(found.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found.directory)
        if self._shortcut is not None:
            self._shortcut.forget()  # paths that start in it have another meaning now
        old = self._moved.get(path)
        if old is not None:
            if fd is not None:
                os.close(fd)  # the real directory went away earlier; what moves now is another, in the upper layer
            return
        if path in self._moved:
            return
        self._moved[path] = fd

    def chmod(self, request: Request, place: Location, mode: int) -> Outcome:
        """Ask the branch."""
        return self._do(self.branch.chmod, place.path, mode)

    def chown(self, request: Request, place: Location, uid: int, gid: int) -> Outcome:
        """Ask the branch."""
        return self._do(self.branch.chown, place.path, -1 if uid == _KEEP else uid, -1 if gid == _KEEP else gid)

    def utime(self, request: Request, place: Location, times: bytes | None) -> Outcome:
        """Ask the branch."""
        now = time.time_ns()
        if times is None:
            return self._do(self.branch.utime, place.path, now, now)
        values = unpack("=qqqq", times)
        ns: list[int | None] = []
        for seconds, part in (values[:2], values[2:]):
            if part not in (_NOW, _OMIT) and not 0 <= part < _BILLION:
                return Errno(EINVAL)
            ns.append(now if part == _NOW else None if part == _OMIT else seconds * _BILLION + part)
        return self._do(self.branch.utime, place.path, *ns)

    def truncate(self, request: Request, place: Location, length: int) -> Outcome:
        """Ask the branch."""
        return self._do(self.branch.truncate, place.path, length)

    def getxattr(self, request: Request, place: Location, name: bytes) -> bytes:
        """Ask the branch."""
        return self.branch.getxattr(place.path, name)

    def listxattr(self, request: Request, place: Location) -> bytes:
        """Ask the branch."""
        return b"".join(name + b"\0" for name in self.branch.listxattr(place.path))

    def setxattr(self, request: Request, place: Location, name: bytes, value: bytes, flags: int) -> Outcome:
        """Ask the branch."""
        return self._do(self.branch.setxattr, place.path, name, value, flags)

    def removexattr(self, request: Request, place: Location, name: bytes) -> Outcome:
        """Ask the branch."""
        return self._do(self.branch.removexattr, place.path, name)

    def list(self, path: bytes) -> list[tuple[bytes, int, int]]:
        """Return name, type and inode number of everything in a directory, with `.` and `..`."""
        above = path.rpartition(b"/")[0]
        dots = [(name, 4, self._number(of)) for name, of in ((b".", path), (b"..", above))]
        return [*dots, *((e.name, e.type, e.inode) for e in self.branch.listdir(path))]

    def _number(self, path: bytes) -> int:
        return self.branch.identity(_asked(self.branch.stat, path))[1]
