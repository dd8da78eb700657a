"""The same operations on a branch and on a directory that the kernel keeps: what each answered, and what is there then.

`Plain` works in a directory by its path: a real overlayfs mount, or a plain copy of the tree. Both sides see parents
component by component and follow no link, so that what is compared is the file system and not the resolver.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sandlock_cow import Branch
from sandlock_sys.rename import exchange, rename_new

Step = tuple[object, ...]
View = dict[bytes, object]


class Side(Protocol):
    """What both sides can do."""

    def do(self, step: Step) -> object: ...
    def view(self) -> View: ...


def attempt(action: Callable[[], object]) -> object:
    """What `action` returned, or the errno."""
    try:
        return action()
    except OSError as error:
        return ("errno", error.errno)


class Served:
    """A branch."""

    def __init__(self, branch: Branch) -> None:
        self.branch = branch

    def do(self, step: Step) -> object:
        name, *rest = step
        return attempt(lambda: getattr(self, str(name))(*rest))

    def open(self, path: bytes, flags: int, mode: int, data: bytes) -> object:
        return _use(self.branch.open(path, flags | os.O_NONBLOCK, mode), flags, data)

    def mkdir(self, path: bytes, mode: int) -> None:
        self.branch.mkdir(path, mode)

    def mknod(self, path: bytes, mode: int) -> None:
        self.branch.mknod(path, mode)

    def symlink(self, target: bytes, path: bytes) -> None:
        self.branch.symlink(target, path)

    def link(self, source: bytes, path: bytes) -> None:
        self.branch.link(source, path)

    def unlink(self, path: bytes) -> None:
        self.branch.unlink(path)

    def rmdir(self, path: bytes) -> None:
        self.branch.rmdir(path)

    def rename(self, source: bytes, target: bytes, flags: int) -> None:
        self.branch.rename(source, target, flags)

    def chmod(self, path: bytes, mode: int) -> None:
        self.branch.chmod(path, mode)

    def utime(self, path: bytes, when: int) -> None:
        self.branch.utime(path, when, when)

    def truncate(self, path: bytes, length: int) -> None:
        self.branch.truncate(path, length)

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        self.branch.setxattr(path, name, value)

    def removexattr(self, path: bytes, name: bytes) -> None:
        self.branch.removexattr(path, name)

    def listdir(self, path: bytes) -> object:
        return [entry.name for entry in self.branch.listdir(path)]

    def readlink(self, path: bytes) -> object:
        return self.branch.readlink(path)

    def stat(self, path: bytes) -> object:
        return _shown(self.branch.stat(path))

    def view(self) -> View:
        return _view(self, b"", {}, self.branch.listxattr, self.branch.getxattr, self._inode)

    def _inode(self, path: bytes) -> object:
        return self.branch.identity(self.branch.stat(path))


class Plain:
    """A directory that the kernel keeps."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        here = os.open(self.root, os.O_PATH)
        *above, name = path.split(b"/")
        try:
            for part in above:
                further = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = further
            # The kernel asks for the right to search as it walks, before it looks at a second path.
            if not os.access(b".", os.X_OK, dir_fd=here, effective_ids=True):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError:
            os.close(here)
            raise
        return here, name or b"."

    def do(self, step: Step) -> object:
        name, *rest = step

        def act() -> object:
            return getattr(self, str(name))(*rest)

        return attempt(act)

    def _at(self, path: bytes, action: Callable[[int, bytes], object]) -> object:
        directory, name = self._parent(path)
        try:
            return action(directory, name)
        finally:
            os.close(directory)

    def _by_path(self, path: bytes, action: Callable[[bytes], object]) -> object:
        return self._at(path, lambda directory, name: action(b"/proc/self/fd/%d/%s" % (directory, name)))

    def open(self, path: bytes, flags: int, mode: int, data: bytes) -> object:
        def act(directory: int, name: bytes) -> object:
            return _use(os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=directory), flags, data)

        return self._at(path, act)

    def mkdir(self, path: bytes, mode: int) -> object:
        return self._at(path, lambda directory, name: os.mkdir(name, mode, dir_fd=directory))

    def mknod(self, path: bytes, mode: int) -> object:
        return self._at(path, lambda directory, name: os.mknod(name, mode, dir_fd=directory))

    def symlink(self, target: bytes, path: bytes) -> object:
        return self._at(path, lambda directory, name: os.symlink(target, name, dir_fd=directory))

    def _two(self, first: bytes, second: bytes, action: Callable[[int, bytes, int, bytes], object]) -> object:
        def inner(directory: int, name: bytes) -> object:
            return self._at(second, lambda other, new: action(directory, name, other, new))

        return self._at(first, inner)

    def link(self, source: bytes, path: bytes) -> object:
        self._status(source)  # linkat(2) resolves it whole before it looks at the second path
        return self._two(
            source,
            path,
            lambda a, old, b, new: os.link(old, new, src_dir_fd=a, dst_dir_fd=b, follow_symlinks=False),
        )

    def unlink(self, path: bytes) -> object:
        return self._at(path, lambda directory, name: os.unlink(name, dir_fd=directory))

    def rmdir(self, path: bytes) -> object:
        return self._at(path, lambda directory, name: os.rmdir(name, dir_fd=directory))

    def rename(self, source: bytes, target: bytes, flags: int) -> object:
        def act(a: int, old: bytes, b: int, new: bytes) -> object:
            if flags == 1:
                rename_new(a, old, b, new)
            elif flags == 2:
                exchange(a, old, b, new)
            else:
                os.rename(old, new, src_dir_fd=a, dst_dir_fd=b)
            return None

        return self._two(source, target, act)

    def chmod(self, path: bytes, mode: int) -> object:
        def act(directory: int, name: bytes) -> object:
            if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                return ("errno", 95)  # what fchmodat2 answers; libc's chmod would follow
            os.chmod(name, mode, dir_fd=directory)
            return None

        return self._at(path, act)

    def utime(self, path: bytes, when: int) -> object:
        return self._at(
            path, lambda directory, name: os.utime(name, ns=(when, when), dir_fd=directory, follow_symlinks=False)
        )

    def truncate(self, path: bytes, length: int) -> object:
        def act(directory: int, name: bytes) -> object:
            if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                return ("errno", 22)  # the caller resolves links; a link itself has no length to set
            os.truncate(b"/proc/self/fd/%d/%s" % (directory, name), length)
            return None

        return self._at(path, act)

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> object:
        return self._by_path(path, lambda place: os.setxattr(place, name, value, follow_symlinks=False))

    def removexattr(self, path: bytes, name: bytes) -> object:
        return self._by_path(path, lambda place: os.removexattr(place, name, follow_symlinks=False))

    def listxattr(self, path: bytes) -> tuple[bytes, ...]:
        found = self._by_path(path, lambda place: os.listxattr(place, follow_symlinks=False))
        assert isinstance(found, list)
        return tuple(map(os.fsencode, found))

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        found = self._by_path(path, lambda place: os.getxattr(place, name, follow_symlinks=False))
        assert isinstance(found, bytes)
        return found

    def listdir(self, path: bytes) -> object:
        def act(directory: int, name: bytes) -> object:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                return sorted(map(os.fsencode, os.listdir(fd)))
            finally:
                os.close(fd)

        return self._at(path, act)

    def readlink(self, path: bytes) -> object:
        return self._at(path, lambda directory, name: os.readlink(name, dir_fd=directory))

    def _status(self, path: bytes) -> os.stat_result:
        found = self._at(path, lambda directory, name: os.stat(name, dir_fd=directory, follow_symlinks=False))
        assert isinstance(found, os.stat_result)
        return found

    def stat(self, path: bytes) -> object:
        return _shown(self._status(path))

    def view(self) -> View:
        return _view(self, b"", {}, self.listxattr, self.getxattr, lambda path: self._status(path).st_ino)


def _use(fd: int, flags: int, data: bytes) -> object:
    try:
        if flags & os.O_PATH:
            return "path"
        kind = os.fstat(fd).st_mode
        if not stat.S_ISREG(kind):
            return stat.S_IFMT(kind)
        if data and flags & os.O_ACCMODE != os.O_RDONLY:
            os.write(fd, data)
        return os.read(fd, 1 << 20) if flags & os.O_ACCMODE != os.O_WRONLY else None
    finally:
        os.close(fd)


def _shown(found: os.stat_result) -> object:
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return found.st_mode, found.st_uid, found.st_gid, size


def _view(
    side: Served | Plain,
    path: bytes,
    seen: dict[object, bytes],
    listxattr: Callable[[bytes], tuple[bytes, ...]],
    getxattr: Callable[[bytes, bytes], bytes],
    inode: Callable[[bytes], object],
) -> View:
    """Everything below, with hard links told as the first name of the same file."""
    found: View = {}
    shown = side.do(("stat", path))
    kind = shown[0] if isinstance(shown, tuple) and isinstance(shown[0], int) else 0
    content: object = None
    first: object = None
    if stat.S_ISREG(kind):
        content = side.do(("open", path, os.O_RDONLY, 0, b""))
    elif stat.S_ISLNK(kind):
        content = side.do(("readlink", path))
    elif stat.S_ISDIR(kind):
        content = side.do(("listdir", path))
    if kind and not stat.S_ISDIR(kind):
        first = seen.setdefault(inode(path), path)
    # The permissions of a directory decide over its attributes, and those of a file over its content.
    xattrs = attempt(lambda: sorted((name, getxattr(path, name)) for name in listxattr(path) if name[:5] == b"user."))
    found[path] = (shown, content, first, xattrs)
    if stat.S_ISDIR(kind) and isinstance(content, list):
        for name in content:
            below = path + b"/" + name if path else name
            found.update(_view(side, below, seen, listxattr, getxattr, inode))
    return found


class Overlay:
    """A real overlayfs mount over `lower`, in a mount namespace of its own (as root) that a process holds."""

    def __init__(self, lower: Path, scratch: Path) -> None:
        for name in ("upper", "work", "merged"):
            (scratch / name).mkdir(parents=True)
        # index: hard links stay together over copy-up; redirect_dir: directories of the lower layer may be renamed.
        options = f"lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work,redirect_dir=on,index=on"
        script = 'mount -t overlay overlay -o "$1" "$2" && echo ready && exec sleep 600'
        self.process = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", options, str(scratch / "merged")],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n", "the overlay could not be mounted"
        self.root = Path(f"/proc/{self.process.pid}/root{scratch}/merged")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


__all__ = ["Overlay", "Plain", "Served", "Side", "Step", "View", "attempt"]
