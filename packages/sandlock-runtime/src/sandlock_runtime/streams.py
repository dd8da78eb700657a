"""Standard streams of a child: which fd it gets, and what the caller keeps."""

from __future__ import annotations

import os
from fcntl import F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_SETFL, FD_CLOEXEC, fcntl
from stat import S_ISCHR, S_ISFIFO, S_ISREG, S_ISSOCK

from sandlock_sys.spawn import NULL_DEVICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol, TypeAlias

    class _HasFileno(Protocol):
        def fileno(self) -> int: ...

    Stream: TypeAlias = int | _HasFileno | None

__all__ = ["DEVNULL", "INHERIT", "PIPE", "STDOUT", "Streams", "close_all", "exposes"]

INHERIT = None  # the caller's own stream
PIPE = -1  # the same numbers as in subprocess, so that either module's constants work
STDOUT = -2
DEVNULL = -3
_NULL = os.makedev(1, 3)  # admin-guide/devices.txt


def exposes(fds: Iterable[int]) -> bool:
    """Tell whether the program could change mode, owner, times or attributes of a file through one of `fds`.

    An fd keeps the mount that it was opened on, so the read-only mounts of the sandbox do not cover it, and a directory
    reaches everything below and above it. A file that is open for writing is granted as such, and so is a terminal;
    pipes and sockets are no files that remain. Whose file it is does not matter: a group may write it.
    """
    for fd in fds:
        if fd < 0:
            continue
        mode = os.fstat(fd).st_mode
        if S_ISSOCK(mode) or S_ISFIFO(mode) or os.isatty(fd):
            continue
        if not S_ISREG(mode) or fcntl(fd, F_GETFL) & (os.O_ACCMODE | os.O_PATH) in (os.O_RDONLY, os.O_PATH):
            return True
    return False


def close_all(fds: list[int]) -> None:
    """Close `fds` and empty the list; an interrupt leaves in it exactly those that are still open."""
    while fds:
        try:
            os.close(fds[-1])
        finally:
            del fds[-1]


class Streams:
    """The three streams of one child.

    Attributes:
        child: fds for the child: in place, or above 2, or NULL_DEVICE. They live until `close_child`.
        parent: the caller's end of each stream that is a pipe, or -1. Given away to whoever takes them from here.
        terminal: stdin is a terminal that the program's session shall have (`sandlock_runtime.tty`).

    """

    __slots__ = ("_absent", "_flags", "_opened", "child", "parent", "terminal")

    def __init__(self, stdin: Stream, stdout: Stream, stderr: Stream) -> None:
        self._opened: list[int] = []
        self._flags: list[tuple[int, int, int, int]] = []
        self.parent = [-1, -1, -1]
        self.child = (0, 1, 2)
        self.terminal = getattr(stdin, "for_session", False)
        if STDOUT in (stdin, stdout):
            raise ValueError("STDOUT is for stderr only: it means the place where stdout goes")
        # Asked before anything is opened here, for that may get the number of a stream that the caller does not have.
        self._absent = [
            number for number, stream in enumerate((stdin, stdout, stderr)) if stream is None and _absent(number)
        ]
        try:
            out = self._open(1, stdout)
            self.child = (self._open(0, stdin), out, out if stderr == STDOUT else self._open(2, stderr))
            if self.child[2] == 1:  # stdout in place, and stderr the same: the child needs it twice
                self.child = (*self.child[:2], self._above(1))
        except BaseException:
            self.close()
            raise

    def _open(self, number: int, stream: Stream) -> int:
        if stream == PIPE:
            read, write = os.pipe()
            mine, childs = (write, read) if number == 0 else (read, write)
            self.parent[number] = mine
            self._opened.append(childs)
            if mine <= 2:  # the caller lacks that stream, and what it prints there must not get into the pipe
                self.parent[number] = fcntl(mine, F_DUPFD_CLOEXEC, 3)
                os.close(mine)
            return self._above(childs) if childs <= 2 else childs
        if stream == DEVNULL or (stream is None and number in self._absent):
            return NULL_DEVICE
        fd = number if stream is None else stream if isinstance(stream, int) else stream.fileno()
        status = os.fstat(fd)  # a bad fd is the caller's mistake: better told here than by a failing launch
        if S_ISCHR(status.st_mode) and status.st_rdev == _NULL:
            return NULL_DEVICE
        # The program shares the caller's open file, and with it O_NONBLOCK, which would outlive the program.
        self._flags.append((fd, status.st_dev, status.st_ino, fcntl(fd, F_GETFL)))
        return fd if fd == number or fd > 2 else self._above(fd)

    def _above(self, fd: int) -> int:
        """Copy `fd` to a number above 2, where putting another stream in its place cannot overwrite it."""
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 3)
        self._opened.append(copy)
        return copy

    def take(self, number: int) -> int:
        """Give the caller's end of stream `number` away; -1 where there is none."""
        fd, self.parent[number] = self.parent[number], -1
        return fd

    def gave(self, number: int, status: os.stat_result) -> bool:
        """Tell whether what a program has as `number` is what it was given: that null device, or a caller's file."""
        if S_ISCHR(status.st_mode) and status.st_rdev == _NULL:
            return number <= 2 and self.child[number] == NULL_DEVICE
        return any(status.st_dev == device and status.st_ino == inode for _, device, inode, _ in self._flags)

    def restore(self) -> None:
        """Put the flags of the caller's files back, which the program may have set to O_NONBLOCK."""
        for fd, device, inode, flags in self._flags:
            try:
                status = os.fstat(fd)
                # Safety: the caller may have closed it, and the number may be another file's by now.
                if (status.st_dev, status.st_ino) == (device, inode) and fcntl(fd, F_GETFL) != flags:
                    fcntl(fd, F_SETFL, flags)
            except OSError:  # EBADF is the only error of these calls for a number
                continue
        self._flags.clear()

    def close_child(self) -> None:
        """Close what was opened for the child; it has its own copies now."""
        close_all(self._opened)

    def close(self) -> None:
        """Close everything that was opened here and not taken."""
        self.close_child()
        for number in range(3):
            fd = self.take(number)
            if fd >= 0:
                os.close(fd)


def _absent(number: int) -> bool:
    """Whether the caller itself runs without this stream.

    Safety: a process that was started without one gives its number to the next file it opens, a pipe of its own say,
    which the program must not get. Such a file is close-on-exec, and what execve(2) would close is no stream.
    """
    try:
        return bool(fcntl(number, F_GETFD) & FD_CLOEXEC)
    except OSError:  # EBADF is the only error of this call for a number
        return True
