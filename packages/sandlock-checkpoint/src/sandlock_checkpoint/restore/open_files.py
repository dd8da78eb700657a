"""Make the open files of a checkpoint anew inside a process, and give them their numbers."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from sandlock_checkpoint.errors import RestoreError
from sandlock_checkpoint.model import Checkpoint, ProcessInfo
from sandlock_checkpoint.open_files import (
    EpollFile,
    EventFile,
    ExternalFile,
    FileLock,
    LockKind,
    MemoryFile,
    NamedFile,
    OpenFile,
    PidFile,
    PipeEnd,
    SignalFile,
    SocketEnd,
    TimerFile,
    UnconnectedSocket,
)
from sandlock_checkpoint.restore.channel import Channel
from sandlock_checkpoint.restore.plan import differs
from sandlock_checkpoint.restore.target import Target
from sandlock_sys import pidfd
from sandlock_sys.errors import SyscallError

__all__ = ["FileMaker", "give_numbers", "open_pidfds"]

_WORD = (1 << 64) - 1
_SECOND = 1_000_000_000
_DUP, _SET_FLAGS, _SET_PIPE_SIZE, _SET_LOCK, _SET_OFD_LOCK = 0, 4, 1031, 6, 37  # F_*, linux/fcntl.h
_SETTABLE = os.O_APPEND | os.O_NONBLOCK | os.O_NOATIME | 0o40000  # O_DIRECT, what F_SETFL can change
# What an open file keeps of how its name was looked up; O_TMPFILE is how tempfile.TemporaryFile asks for one without.
_OF_NAMES = os.O_NOFOLLOW | os.O_TMPFILE
_SET_TICKS = 0x40085400  # TFD_IOC_SET_TICKS, linux/timerfd.h, 3.17
_CLOSE_ON_EXEC = os.O_CLOEXEC
_EMPTY_PATH_LOCK = {True: fcntl.LOCK_EX, False: fcntl.LOCK_SH}


@dataclass
class FileMaker:
    """Makes the open files of a checkpoint in one process, each once, at numbers above all that the program uses.

    Attributes:
        target: the process; its children get the files by fork.
        checkpoint: whose files they are.
        objects: descriptors in the process of the shared memory.
        channel: hands it our descriptors.
        base: the lowest number that no captured descriptor has.
        made: number of the file -> its descriptor in the process.

    """

    target: Target
    checkpoint: Checkpoint
    objects: dict[int, int]
    channel: Channel
    base: int
    made: dict[int, int] = field(default_factory=dict)
    _pipes: dict[int, tuple[int, int]] = field(default_factory=dict)
    _pairs: dict[int, tuple[int, int]] = field(default_factory=dict)
    _borrowed: set[int] = field(default_factory=set)

    def make(self, replacements: Mapping[int, int]) -> None:
        """Make all files; those of `replacements` are the caller's descriptors, sent over the channel."""
        for number, file in enumerate(self.checkpoint.files):
            try:
                fd = self._take(replacements[number]) if number in replacements else self._open(file)
            except SyscallError as error:
                raise RestoreError(f"open file {number} ({type(file.target).__name__})", str(error)) from error
            if fd is not None:
                self.made[number] = fd

    def lift(self, fd: int) -> int:
        """Move a descriptor of the process to `base` or above; return its new number.

        It stays open across exec, since the children that inherit it execute their programs first.
        """
        lifted = self.target.call("fcntl", fd, _DUP, self.base)
        self.target.call("close", fd)
        return lifted

    def _take(self, fd: int) -> int:
        """Hand one of our descriptors to the process."""
        return self.lift(self.channel.receive(self.target, fd))

    def _open(self, file: OpenFile) -> int | None:
        match file.target:
            case NamedFile():
                return self._named(file, file.target)
            case MemoryFile():
                return self._memory(file, file.target)
            case PipeEnd():
                return self._pipe(file, file.target)
            case SocketEnd():
                return self._socket(file, file.target)
            case UnconnectedSocket():
                return self._unconnected(file, file.target)
            case EventFile():
                return self._event(file, file.target)
            case TimerFile():
                return self._timer(file, file.target)
            case SignalFile():
                mask = self.target.put(file.target.mask.to_bytes(8, "little"))
                flags = file.flags & os.O_NONBLOCK | _CLOSE_ON_EXEC
                return self.lift(self.target.call("signalfd4", _WORD, mask, 8, flags))
            case EpollFile():
                return self.lift(self.target.call("epoll_create1", _CLOSE_ON_EXEC))
            case PidFile() | ExternalFile():
                return None  # the one when all processes exist; the other was taken on as lacking
            case _:
                assert_never(file.target)

    def _named(self, file: OpenFile, named: NamedFile) -> int:
        known = named.identity
        fd = self.target.open(known.path, file.flags)
        facts = os.stat(f"/proc/{self.target.pid}/fd/{fd}")
        change = differs(known, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, contents=False)
        if change:
            raise RestoreError(os.fsdecode(known.path), change)
        if named.position:
            self.target.call("lseek", fd, named.position, os.SEEK_SET)
        fd = self.lift(fd)
        self._lock(fd, named.locks)
        return fd

    def _lock(self, fd: int, locks: tuple[FileLock, ...]) -> None:
        for lock in locks:
            if lock.kind is LockKind.FLOCK:
                self.target.call("flock", fd, _EMPTY_PATH_LOCK[lock.exclusive] | fcntl.LOCK_NB)
            elif lock.kind is LockKind.OFD:
                self.target.call("fcntl", fd, _SET_OFD_LOCK, self.target.put(pack_lock(lock)))

    def _memory(self, file: OpenFile, memory: MemoryFile) -> int:
        # A new open file each time: descriptors that share one are one file in the checkpoint.
        path = b"/proc/self/fd/%d" % self.objects[memory.memory]
        fd = self.target.open(path, file.flags & ~_OF_NAMES)
        if memory.position:
            self.target.call("lseek", fd, memory.position, os.SEEK_SET)
        fd = self.lift(fd)
        self._lock(fd, memory.locks)
        return fd

    def _pipe(self, file: OpenFile, end: PipeEnd) -> int:
        target = self.target
        if end.pipe not in self._pipes:
            pipe = self.checkpoint.pipes[end.pipe]
            target.call("pipe2", target.scratch, _CLOSE_ON_EXEC)
            reader, writer = (self.lift(fd) for fd in struct.unpack("<ii", target.get(8)))
            self._pipes[end.pipe] = (reader, writer)
            target.errno("fcntl", writer, _SET_PIPE_SIZE, pipe.capacity)
            if pipe.data:
                self._fill(writer, pipe.data)
        return self._once(self._pipes[end.pipe][end.writing], file.flags)

    def _fill(self, writer: int, data: bytes) -> None:
        process = pidfd.open_pidfd(self.target.pid)
        try:
            own = pidfd.getfd(process, writer)
        finally:
            os.close(process)
        try:
            os.set_blocking(own, False)
            if os.write(own, data) != len(data):
                raise RestoreError("pipe", f"it does not take the {len(data)} bytes that were in it")
            os.set_blocking(own, True)
        finally:
            os.close(own)

    def _once(self, fd: int, flags: int) -> int:
        """Return the descriptor itself the first time, and another open file of the same object afterwards."""
        target = self.target
        if fd in self._borrowed:
            return self.lift(target.open(b"/proc/self/fd/%d" % fd, flags))
        self._borrowed.add(fd)
        if flags & _SETTABLE:
            target.call("fcntl", fd, _SET_FLAGS, flags & _SETTABLE)
        return fd

    def _socket(self, file: OpenFile, end: SocketEnd) -> int:
        target = self.target
        if end.pair not in self._pairs:
            pair = self.checkpoint.sockets[end.pair]
            target.call("socketpair", socket.AF_UNIX, pair.type | _CLOSE_ON_EXEC, 0, target.scratch)
            first, second = (self.lift(fd) for fd in struct.unpack("<ii", target.get(8)))
            self._pairs[end.pair] = (first, second)
            process = pidfd.open_pidfd(target.pid)
            try:
                ends = [socket.socket(fileno=pidfd.getfd(process, fd)) for fd in (first, second)]
            finally:
                os.close(process)
            with ends[0], ends[1]:
                for number, messages in enumerate(pair.queued):
                    for message in messages:
                        # What waits to be received at one end was sent from the other.
                        ends[1 - number].sendall(message, socket.MSG_DONTWAIT)
        return self._once(self._pairs[end.pair][end.end], file.flags)

    def _unconnected(self, file: OpenFile, sock: UnconnectedSocket) -> int:
        target = self.target
        kind = sock.type | file.flags & os.O_NONBLOCK | _CLOSE_ON_EXEC
        fd = target.call("socket", sock.family, kind, sock.protocol)
        for level, option, value in sock.options:
            target.call("setsockopt", fd, level, option, target.put(struct.pack("<i", value)), 4)
        if sock.address:
            target.call("bind", fd, target.put(sock.address), len(sock.address))
        if sock.backlog >= 0:
            target.call("listen", fd, sock.backlog)
        return self.lift(fd)

    def _event(self, file: OpenFile, event: EventFile) -> int:
        flags = file.flags & os.O_NONBLOCK | _CLOSE_ON_EXEC | event.semaphore
        fd = self.lift(self.target.call("eventfd2", 0, flags))
        if event.count:
            self.target.call("write", fd, self.target.put(event.count.to_bytes(8, "little")), 8)
        return fd

    def _timer(self, file: OpenFile, timer: TimerFile) -> int:
        target = self.target
        flags = file.flags & os.O_NONBLOCK | _CLOSE_ON_EXEC
        fd = self.lift(target.call("timerfd_create", timer.clock, flags))
        if timer.value_ns:
            numbers = (*divmod(timer.interval_ns, _SECOND), *divmod(timer.value_ns, _SECOND))
            target.call("timerfd_settime", fd, 0, target.put(struct.pack("<qqqq", *numbers)), 0)
        if timer.ticks:
            target.call("ioctl", fd, _SET_TICKS, target.put(timer.ticks.to_bytes(8, "little")))
        return fd


def open_pidfds(
    target: Target, process: ProcessInfo, files: tuple[OpenFile, ...], pids: list[int], base: int
) -> dict[int, int]:
    """Open what pidfds of the tree a process has, at numbers above all it uses; return them by file.

    Arguments:
        target: the process.
        process: what it is to be.
        files: of the checkpoint.
        pids: of all processes, as they see them themselves.
        base: the lowest number that no captured descriptor has.

    """
    made = {}
    for row in process.descriptors:
        known = files[row.file].target
        if isinstance(known, PidFile) and row.file not in made:
            fd = target.call("pidfd_open", pids[known.process], files[row.file].flags & os.O_NONBLOCK)
            made[row.file] = target.call("fcntl", fd, _DUP, base)
            target.call("close", fd)
    return made


def pack_lock(lock: FileLock) -> bytes:
    """Return the struct flock of a lock."""
    length = 0 if lock.end < 0 else lock.end - lock.start + 1
    kind = fcntl.F_WRLCK if lock.exclusive else fcntl.F_RDLCK
    return struct.pack("<hhxxxxqqixxxx", kind, os.SEEK_SET, lock.start, length, 0)


def give_numbers(
    target: Target, process: ProcessInfo, made: Mapping[int, int], number: int, files: tuple[OpenFile, ...]
) -> None:
    """Give the files the numbers that the program knows, close all others, then let each epoll watch again.

    Arguments:
        target: the process.
        process: what it is to be.
        made: descriptor in it of each file.
        number: position of the process in the checkpoint.
        files: of the checkpoint.

    """
    wanted = {row.number: row for row in process.descriptors if row.file in made}
    for fd in sorted(wanted):
        target.call("dup3", made[wanted[fd].file], fd, _CLOSE_ON_EXEC if wanted[fd].close_on_exec else 0)
    at = 0
    for fd in [*sorted(wanted), 1 << 31]:
        if fd > at:
            target.call("close_range", at, fd - 1, 0)
        at = fd + 1
    for fd, row in sorted(wanted.items()):
        epoll = files[row.file].target
        if isinstance(epoll, EpollFile) and epoll.process == number:
            for interest in epoll.interests:
                form = "<IQ" if target.architecture.abi.packed_epoll_event else "<IxxxxQ"
                event = struct.pack(form, interest.events, interest.data)
                error = target.errno("epoll_ctl", fd, 1, interest.number, target.put(event))
                if error and error != 17:  # EEXIST: the epoll has two descriptors, and the other came first
                    raise RestoreError(f"epoll {fd}", f"descriptor {interest.number}: {os.strerror(error)}")
    for row in process.descriptors:
        named = files[row.file].target
        for lock in named.locks if isinstance(named, NamedFile | MemoryFile) else ():
            if lock.kind is LockKind.POSIX and lock.process == number and row.number in wanted:
                target.call("fcntl", row.number, _SET_LOCK, target.put(pack_lock(lock)))
