"""Pipes and sockets: which of their ends are inside the checkpoint, and what is in them."""

from __future__ import annotations

import fcntl
import os
import select
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandlock_checkpoint.capture.sockets import describe_socket
from sandlock_checkpoint.open_files import Pipe, PipeEnd, SocketPair, Target
from sandlock_checkpoint.terms import Unsupported
from sandlock_sys import pidfd, splice
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import FdKind

if TYPE_CHECKING:
    from sandlock_checkpoint.capture.found import Found

__all__ = ["Joints"]

_PIPE_SIZE = 1032  # F_GETPIPE_SZ, 2.6.35
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ
_PACKETS = os.O_DIRECT
_ACCESS = os.O_ACCMODE


@dataclass
class Joints:
    """Collects pipes and socket pairs by inode.

    Attributes:
        ends: every descriptor of every pipe and socket in the checkpoint, by inode; filled before `end_of` is asked.
        pipes: the pipes found so far.
        sockets: the socket pairs found so far.

    """

    ends: dict[int, list[Found]] = field(default_factory=dict)
    pipes: list[Pipe] = field(default_factory=list)
    sockets: list[SocketPair] = field(default_factory=list)
    _pipe_numbers: dict[int, int] = field(default_factory=dict)
    _socket_ends: dict[int, tuple[int, int]] = field(default_factory=dict)

    def collect(self, found: list[Found]) -> None:
        """Learn which ends there are, before any is described."""
        for one in found:
            if one.link.kind in {FdKind.PIPE, FdKind.SOCKET} and one.link.inode is not None:
                self.ends.setdefault(one.link.inode, []).append(one)

    def end_of(self, group: list[Found]) -> Target | Unsupported:
        """Return what an open file of a pipe or socket is."""
        one = group[0]
        if one.link.kind is FdKind.PIPE:
            return self._pipe_end(one)
        return describe_socket(group, self.ends, self.sockets, self._socket_ends)

    def _pipe_end(self, one: Found) -> Target | Unsupported:
        inode = one.link.inode or 0
        access = one.info.flags & _ACCESS
        if access == os.O_RDWR:
            return Unsupported(one.name, "pipe", "a pipe opened for both directions")
        if inode not in self._pipe_numbers:
            problem = self._add_pipe(one, inode)
            if problem is not None:
                return problem
        return PipeEnd(self._pipe_numbers[inode], access == os.O_WRONLY)

    def _add_pipe(self, one: Found, inode: int) -> Unsupported | None:
        readers = [end for end in self.ends[inode] if end.info.flags & _ACCESS == os.O_RDONLY]
        writers = [end for end in self.ends[inode] if end.info.flags & _ACCESS == os.O_WRONLY]
        end = (readers or writers)[0]
        process = pidfd.open_pidfd(end.pid)
        try:
            copy = pidfd.getfd(process, end.fd)
        finally:
            os.close(process)
        try:
            if (not readers or not writers) and not _hung_up(copy):
                return Unsupported(one.name, "pipe", "a pipe whose other end is held by a process outside")
            capacity, data = _contents(copy) if readers else (_capacity(copy), b"")
        finally:
            os.close(copy)
        if data and any(end.info.flags & _PACKETS for end in readers + writers):
            return Unsupported(one.name, "pipe", "a pipe with packets (O_DIRECT) in it")
        self._pipe_numbers[inode] = len(self.pipes)
        self.pipes.append(Pipe(capacity, data))
        return None


def _capacity(pipe: int) -> int:
    return fcntl.fcntl(pipe, _PIPE_SIZE)


def _hung_up(pipe: int) -> bool:
    """Tell whether nobody holds the other end."""
    poll = select.poll()
    poll.register(pipe, 0)  # POLLHUP and POLLERR are always told
    return bool(poll.poll(0))


def _contents(pipe: int) -> tuple[int, bytes]:
    """Return capacity and contents of a pipe, and leave them in it."""
    capacity = _capacity(pipe)
    reader, writer = os.pipe()
    try:
        os.set_blocking(reader, False)
        fcntl.fcntl(writer, _SET_PIPE_SIZE, capacity)
        parts = []
        try:
            splice.tee(pipe, writer, capacity)
        except SyscallError as error:
            if error.errno != 11:  # EAGAIN: it is empty
                raise
            return capacity, b""
        os.close(writer)
        writer = -1
        while part := os.read(reader, capacity):
            parts.append(part)
        return capacity, b"".join(parts)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
