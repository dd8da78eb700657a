"""Parse /proc/PID/fdinfo/N and the links /proc/PID/fd/N (proc_pid_fdinfo(5), proc_pid_fd(5))."""

from __future__ import annotations

import enum
import re
import stat
from dataclasses import dataclass

from sandlock_sys.errors import ProcParseError

__all__ = ["FdInfo", "FdKind", "FdLink", "parse_fd_link", "parse_fdinfo"]

_DELETED = b" (deleted)"
_MEMFD = b"/memfd:"
_NUMBERED = re.compile(rb"([a-z_]+):\[([0-9]+)\]")  # pipe:[12], socket:[12], mnt:[12]
_ANON_INODE = re.compile(rb"anon_inode:(?:\[(.*)\]|(.*))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FdInfo:
    """An open file.

    Attributes:
        position: offset in bytes.
        flags: O_* of the open file, with O_CLOEXEC of this descriptor.
        mount_id: of the mount it was opened on (3.15).
        inode: of the file (5.14); None before.
        details: what this kind of file adds, line by line, as it stands: eventfd-count, sigmask, tfd (epoll),
            inotify, fanotify, clockid (timerfd), Pid and NSpid (pidfd), lock, ...

    """

    position: int
    flags: int
    mount_id: int
    inode: int | None
    details: tuple[bytes, ...]

    def detail(self, name: str) -> bytes | None:
        """Return the value of the first detail line "NAME: value", or None."""
        prefix = name.encode("ascii") + b":"
        return next((line[len(prefix) :].strip() for line in self.details if line.startswith(prefix)), None)


class FdKind(enum.Enum):
    """What a file descriptor refers to."""

    FILE = "file"
    DIRECTORY = "directory"
    DEVICE = "device"
    FIFO = "fifo"  # with a name; a pipe has none
    SOCKET_FILE = "socket_file"  # the name of a socket, opened with O_PATH
    SYMLINK = "symlink"  # opened with O_PATH | O_NOFOLLOW
    MEMFD = "memfd"
    PIPE = "pipe"
    SOCKET = "socket"
    ANON_INODE = "anon_inode"
    NAMESPACE = "namespace"


@dataclass(frozen=True, slots=True)
class FdLink:
    """Where a descriptor's link points.

    Attributes:
        kind: what it is.
        name: the path; or a memfd's, an anon_inode's ("eventfd", "eventpoll", "seccomp notify") or a namespace's
            ("mnt") name; b"" for pipes and sockets.
        inode: the number in a pipe's, socket's or namespace's name, else None.
        deleted: the path does not lead to it any more.

    """

    kind: FdKind
    name: bytes
    inode: int | None = None
    deleted: bool = False


_KINDS = {
    stat.S_IFREG: FdKind.FILE,
    stat.S_IFDIR: FdKind.DIRECTORY,
    stat.S_IFCHR: FdKind.DEVICE,
    stat.S_IFBLK: FdKind.DEVICE,
    stat.S_IFIFO: FdKind.FIFO,
    stat.S_IFSOCK: FdKind.SOCKET_FILE,
    stat.S_IFLNK: FdKind.SYMLINK,
}


def parse_fdinfo(data: bytes, file: str = "fdinfo") -> FdInfo:
    """Return what the file says.

    Raises:
        ProcParseError: pos, flags or mnt_id is missing or is not a number.

    """
    head: dict[bytes, int] = {}
    details = []
    lines = data.split(b"\n")
    if lines[-1]:
        raise ProcParseError(file, len(lines), lines[-1], "the last line is cut off")
    bases = {b"pos": 10, b"flags": 8, b"mnt_id": 10, b"ino": 10}
    for number, line in enumerate(lines[:-1], 1):
        name, separator, value = line.partition(b":\t")
        # epoll and inotify lines have a pos and an ino of their own, but not at their beginning
        if not separator or name not in bases or name in head:
            details.append(line)
            continue
        try:
            head[name] = int(value, bases[name])
        except ValueError:
            raise ProcParseError(file, number, line, f"{name.decode()} is not a number") from None
    for name in (b"pos", b"flags", b"mnt_id"):
        if name not in head:
            raise ProcParseError(file, len(lines), b"", f"there is no line {name.decode()}")
    return FdInfo(head[b"pos"], head[b"flags"], head[b"mnt_id"], head.get(b"ino"), tuple(details))


def parse_fd_link(target: bytes, mode: int) -> FdLink:
    """Return what a link's text and its file's `st_mode` (of stat(2) through the link) say together.

    " (deleted)" and "/memfd:" may be part of a real file's name; st_nlink, 0 for both, tells a file that still has
    its name.

    Raises:
        ProcParseError: no known form.

    """
    if match := _NUMBERED.fullmatch(target):
        kind = {b"pipe": FdKind.PIPE, b"socket": FdKind.SOCKET}.get(match[1], FdKind.NAMESPACE)
        return FdLink(kind, match[1] if kind is FdKind.NAMESPACE else b"", int(match[2]))
    if match := _ANON_INODE.fullmatch(target):
        return FdLink(FdKind.ANON_INODE, match[1] if match[1] is not None else match[2])
    deleted = target.endswith(_DELETED)
    name = target.removesuffix(_DELETED)
    if deleted and name.startswith(_MEMFD):
        return FdLink(FdKind.MEMFD, name.removeprefix(_MEMFD), deleted=True)
    known = _KINDS.get(stat.S_IFMT(mode))
    if known is None or not target.startswith((b"/", b"(unreachable)/")):
        raise ProcParseError("fd", 1, target, f"neither a path nor a known object (mode {mode:#o})")
    return FdLink(known, name, deleted=deleted)
