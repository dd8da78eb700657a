"""Write down the descriptors of stopped processes, and what their open files are of."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field

from sandlock_checkpoint.capture.file_sharing import group_files
from sandlock_checkpoint.capture.found import Found
from sandlock_checkpoint.capture.joints import Joints
from sandlock_checkpoint.capture.mappings import identify
from sandlock_checkpoint.capture.shared import SharedObjects
from sandlock_checkpoint.open_files import (
    Descriptor,
    EpollFile,
    EpollInterest,
    EventFile,
    ExternalFile,
    FileLock,
    LockKind,
    MemoryFile,
    NamedFile,
    OpenFile,
    PidFile,
    SignalFile,
    Target,
    TimerFile,
)
from sandlock_checkpoint.terms import Unsupported
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import FdInfo, FdKind, list_fds, read_fd_link, read_fdinfo

__all__ = ["OpenFiles", "parse_locks"]

_CLOSE_ON_EXEC = os.O_CLOEXEC
_ASYNC = 0o20000  # O_ASYNC: the owner gets a signal
_MEMORY_MAJOR, _MEMORY_MINORS = (
    1,
    {3, 5, 7, 8, 9},
)  # null, zero, full, random, urandom: Documentation/admin-guide/devices
_LOCK = re.compile(rb"\d+: (FLOCK|POSIX|OFDLCK) +\w+ +(READ|WRITE) +(-?\d+) +[0-9a-f:]+ +(\d+) +(\d+|EOF)")
_LOCK_KINDS = {b"FLOCK": LockKind.FLOCK, b"POSIX": LockKind.POSIX, b"OFDLCK": LockKind.OFD}
_EPOLL = re.compile(rb"tfd: +(\d+) +events: +([0-9a-f]+) +data: +([0-9a-f]+)")
_SECOND = 1_000_000_000


@dataclass
class OpenFiles:
    """Collects the descriptors of all processes, then describes every open file once.

    Attributes:
        found: every descriptor.
        unsupported: what cannot be captured.

    """

    found: list[Found] = field(default_factory=list)
    unsupported: list[Unsupported] = field(default_factory=list)

    def add(self, pid: int, process: int, prefix: str) -> None:
        """Read the descriptors of a process, stopped."""
        for fd in list_fds(pid):
            path = f"/proc/{pid}/fd/{fd}"
            try:
                facts = os.stat(path)
                text = os.readlink(os.fsencode(path))
            except OSError as error:
                raise SyscallError("readlink", error.errno or 5, path) from error
            self.found.append(
                Found(
                    pid, process, fd, read_fdinfo(pid, fd), read_fd_link(pid, fd), text,
                    facts.st_dev, facts.st_ino, facts.st_rdev, prefix,
                )
            )  # fmt: skip

    def describe(
        self, pids: list[int], shared: SharedObjects, joints: Joints
    ) -> tuple[tuple[OpenFile, ...], dict[int, tuple[Descriptor, ...]]]:
        """Return every open file once, and the descriptors of each process by its number in the checkpoint.

        Arguments:
            pids: the processes, in the order of the checkpoint.
            shared: where memory behind descriptors is collected.
            joints: pipes and sockets of all of them; told about every end here.

        """
        groups = group_files(self.found)
        number = {(member.pid, member.fd): at for at, group in enumerate(groups) for member in group}
        files = []
        for group in groups:
            first = group[0]
            target = self._target(group, pids, number, shared, joints)
            if isinstance(target, Unsupported):
                self.unsupported.append(target)
                target = ExternalFile(target.kind, first.text)
            files.append(OpenFile(first.info.flags & ~_CLOSE_ON_EXEC, target))
        descriptors: dict[int, list[Descriptor]] = {at: [] for at in range(len(pids))}
        for one in self.found:
            descriptors[one.process].append(
                Descriptor(one.fd, number[one.pid, one.fd], bool(one.info.flags & _CLOSE_ON_EXEC))
            )
        return tuple(files), {at: tuple(rows) for at, rows in descriptors.items()}

    def _target(
        self,
        group: list[Found],
        pids: list[int],
        number: dict[tuple[int, int], int],
        shared: SharedObjects,
        joints: Joints,
    ) -> Target | Unsupported:
        one = group[0]
        if one.info.flags & _ASYNC:
            return Unsupported(one.name, "async_io", f"{os.fsdecode(one.text)}: sends signals (O_ASYNC)")
        match one.link.kind:
            case FdKind.FILE | FdKind.DIRECTORY | FdKind.FIFO | FdKind.DEVICE:
                return self._named(one, pids, shared)
            case FdKind.MEMFD:
                return MemoryFile(shared.of_file(one.pid, one.fd, "memfd", one.link.name), one.info.position)
            case FdKind.PIPE | FdKind.SOCKET:
                return joints.end_of(group)
            case FdKind.ANON_INODE:
                return _anonymous(one, pids, number)
            case FdKind.SOCKET_FILE | FdKind.SYMLINK | FdKind.NAMESPACE:
                return Unsupported(one.name, one.link.kind.value, f"{os.fsdecode(one.text)}: cannot be opened again")

    def _named(self, one: Found, pids: list[int], shared: SharedObjects) -> Target | Unsupported:
        text = os.fsdecode(one.text)
        locks = parse_locks(one.info, pids)
        if isinstance(locks, str):
            return Unsupported(one.name, "lock", f"{text}: {locks}")
        if one.link.kind is FdKind.DEVICE:
            if os.major(one.rdev) != _MEMORY_MAJOR or os.minor(one.rdev) not in _MEMORY_MINORS:
                terminal = os.major(one.rdev) in {4, 5, 136}
                return Unsupported(one.name, "tty" if terminal else "device", f"{text}: belongs to the host")
        elif one.link.deleted:
            if one.link.kind is not FdKind.FILE:
                return Unsupported(one.name, "deleted", f"{text}: has no name any more")
            return MemoryFile(shared.of_file(one.pid, one.fd, "deleted", one.link.name), one.info.position, locks)
        elif one.link.kind is FdKind.FIFO:
            return Unsupported(one.name, "fifo", f"{text}: what is in a named pipe belongs to others too")
        elif re.match(r"/proc/(\d+|self|thread-self)(/|$)", text):
            return Unsupported(one.name, "proc", f"{text}: a file of one process")
        try:
            identity = identify(one.pid, one.link.name)
        except SyscallError as error:
            return Unsupported(one.name, "unreachable", f"{text}: {error.strerror}: it could not be opened again")
        if (identity.inode, stat.S_IFMT(identity.mode)) != (
            one.inode,
            stat.S_IFMT(os.stat(f"/proc/{one.pid}/fd/{one.fd}").st_mode),
        ):
            return Unsupported(one.name, "replaced", f"{text}: another file has this name now")
        return NamedFile(identity, one.info.position, locks)


def parse_locks(info: FdInfo, pids: list[int]) -> tuple[FileLock, ...] | str:
    """Return the locks that a descriptor's fdinfo tells, or why they cannot be told."""
    found = []
    for line in info.details:
        if not line.startswith(b"lock:"):
            continue
        match = _LOCK.match(line.removeprefix(b"lock:").strip())
        if match is None:
            return f"holds a lock of an unknown kind ({line.decode(errors='replace')})"
        kind = _LOCK_KINDS[match[1]]
        owner = int(match[3])
        if kind is LockKind.POSIX and owner not in pids:
            continue  # another process's, told because the file is the same
        end = -1 if match[5] == b"EOF" else int(match[5])
        process = pids.index(owner) if kind is LockKind.POSIX else -1
        found.append(FileLock(kind, match[2] == b"WRITE", int(match[4]), end, process))
    return tuple(found)


def _anonymous(one: Found, pids: list[int], number: dict[tuple[int, int], int]) -> Target | Unsupported:
    """Return what an anonymous inode is."""
    info = one.info
    match one.link.name:
        case b"eventfd":
            semaphore = info.detail("eventfd-semaphore")
            return EventFile(
                int(info.detail("eventfd-count") or b"0", 16), semaphore is not None and int(semaphore) > 0
            )
        case b"signalfd":
            return SignalFile(int(info.detail("sigmask") or b"0", 16))
        case b"timerfd":
            return _timer(info)
        case b"eventpoll":
            return _epoll(one, number)
        case b"pidfd":
            pid = int(info.detail("Pid") or b"-1")
            if pid in pids:
                return PidFile(pids.index(pid))
    return Unsupported(one.name, one.link.name.decode("ascii", "replace"), "cannot be made again with what it holds")


def _timer(info: FdInfo) -> TimerFile:
    times = []
    for name in ("it_value", "it_interval"):
        seconds, nanoseconds = (info.detail(name) or b"(0, 0)").strip(b"()").split(b",")
        times.append(int(seconds) * _SECOND + int(nanoseconds))
    return TimerFile(
        clock=int(info.detail("clockid") or b"0"),
        ticks=int(info.detail("ticks") or b"0"),
        set_flags=int(info.detail("settime flags") or b"0", 8),
        value_ns=times[0],
        interval_ns=times[1],
    )


def _epoll(one: Found, number: dict[tuple[int, int], int]) -> Target | Unsupported:
    interests = []
    for line in one.info.details:
        match = _EPOLL.search(line)
        if match is None:
            continue
        fd = int(match[1])
        if (one.pid, fd) not in number:
            return Unsupported(one.name, "eventpoll", f"it watches descriptor {fd}, which is closed")
        interests.append(EpollInterest(fd, number[one.pid, fd], int(match[2], 16), int(match[3], 16)))
    return EpollFile(one.process, tuple(interests))
