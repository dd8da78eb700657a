"""Open files in a checkpoint: what descriptors refer to, of which kind, and what pipes and sockets hold.

A descriptor is a number in one process. It refers to an open file (an "open file description" of open(2)), which other
descriptors, in other processes too, may share: one offset, one set of flags, one lock. A pipe or a socket pair joins
several open files.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sandlock_checkpoint.memory import FileIdentity

__all__ = [
    "Descriptor",
    "EpollFile",
    "EpollInterest",
    "EventFile",
    "ExternalFile",
    "FileLock",
    "LockKind",
    "MemoryFile",
    "NamedFile",
    "OpenFile",
    "PidFile",
    "Pipe",
    "PipeEnd",
    "SignalFile",
    "SocketEnd",
    "SocketPair",
    "Target",
    "TimerFile",
    "UnconnectedSocket",
]


@dataclass(frozen=True, slots=True)
class Descriptor:
    """File descriptor `number` refers to `Checkpoint.files[file]`; `close_on_exec` is its own flag."""

    number: int
    file: int
    close_on_exec: bool


class LockKind(enum.Enum):
    """Who owns a lock."""

    FLOCK = "flock"  # flock(2): the open file
    POSIX = "posix"  # fcntl(2) F_SETLK: the process
    OFD = "ofd"  # fcntl(2) F_OFD_SETLK: the open file


@dataclass(frozen=True, slots=True)
class FileLock:
    """A lock: `exclusive` or shared, on bytes `start` to `end` (included; -1: to the end of the file, as flock is).

    Attributes:
        kind: who owns it.
        exclusive: a write lock.
        start: first byte.
        end: last byte, or -1.
        process: position in `Checkpoint.processes` of the owner of a POSIX lock, else -1.

    """

    kind: LockKind
    exclusive: bool
    start: int = 0
    end: int = -1
    process: int = -1


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A regular file, directory, FIFO or memory device (/dev/null, zero, full, random, urandom) opened by its name."""

    identity: FileIdentity
    position: int
    locks: tuple[FileLock, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """A memfd or a deleted regular file: `Checkpoint.shared[memory]`, at offset `position`."""

    memory: int
    position: int
    locks: tuple[FileLock, ...] = ()


@dataclass(frozen=True, slots=True)
class PipeEnd:
    """The reading or `writing` end of `Checkpoint.pipes[pipe]`."""

    pipe: int
    writing: bool


@dataclass(frozen=True, slots=True)
class SocketEnd:
    """End 0 or 1 (`end`) of `Checkpoint.sockets[pair]`."""

    pair: int
    end: int


@dataclass(frozen=True, slots=True)
class UnconnectedSocket:
    """A socket without a peer, taken on by name: one that listens, or is at most bound. Restore makes it anew.

    Attributes:
        family: AF_*.
        type: SOCK_*.
        protocol: IPPROTO_*.
        address: the sockaddr it is bound to, as bytes; b"" when it is not.
        backlog: of listen(2), -1 when it does not listen.
        options: integer options to set again before it is bound: (level, option, value).

    """

    family: int
    type: int
    protocol: int
    address: bytes
    backlog: int
    options: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class EventFile:
    """An eventfd(2)."""

    count: int
    semaphore: bool


@dataclass(frozen=True, slots=True)
class TimerFile:
    """A timerfd(2): as timerfd_gettime(2) tells it, in nanoseconds.

    Attributes:
        clock: CLOCK_*.
        ticks: expirations nobody has read.
        set_flags: the flags it was armed with (TFD_TIMER_ABSTIME).
        value_ns: until the next expiration, 0 when disarmed.
        interval_ns: between expirations.

    """

    clock: int
    ticks: int
    set_flags: int
    value_ns: int
    interval_ns: int


@dataclass(frozen=True, slots=True)
class SignalFile:
    """A signalfd(2) for the signals of `mask`, bit N-1 for signal N."""

    mask: int


@dataclass(frozen=True, slots=True)
class EpollInterest:
    """What an epoll(7) watches: descriptor number `number`, that referred to `Checkpoint.files[file]`."""

    number: int
    file: int
    events: int
    data: int


@dataclass(frozen=True, slots=True)
class EpollFile:
    """An epoll(7) instance; `process` is the position of the process in whose numbers `interests` are."""

    process: int
    interests: tuple[EpollInterest, ...]


@dataclass(frozen=True, slots=True)
class PidFile:
    """A pidfd of `Checkpoint.processes[process]`."""

    process: int


@dataclass(frozen=True, slots=True)
class ExternalFile:
    """Something whose other side lies outside the checkpoint, taken on by name; restore needs a replacement for it.

    Attributes:
        kind: "tty", "pipe", "unix_socket", "tcp_socket", "udp_socket", "device", "inotify", ...
        description: the text of /proc/PID/fd/N, for people.

    """

    kind: str
    description: bytes


Target = (
    NamedFile
    | MemoryFile
    | PipeEnd
    | SocketEnd
    | UnconnectedSocket
    | EventFile
    | TimerFile
    | SignalFile
    | EpollFile
    | PidFile
    | ExternalFile
)
"""What an open file is of."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """One open file.

    Attributes:
        flags: O_* as fcntl(2) F_GETFL tells them, without O_CLOEXEC (which is the descriptor's).
        target: what it is of.
        owner: F_SETOWN: pid, negative for a process group, 0 for none; meaningful only inside the checkpoint.
        signal: F_SETSIG, 0 for SIGIO.

    """

    flags: int
    target: Target
    owner: int = 0
    signal: int = 0


@dataclass(frozen=True, slots=True)
class Pipe:
    """A pipe whose ends are all inside the checkpoint, with what was written and not yet read.

    Attributes:
        capacity: bytes (F_GETPIPE_SZ).
        data: the bytes in it, in order.

    """

    capacity: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SocketPair:
    """A socketpair(2) whose ends are both inside the checkpoint.

    Attributes:
        type: SOCK_STREAM (1), SOCK_DGRAM (2) or SOCK_SEQPACKET (5).
        queued: for end 0 and for end 1, what waits to be received there: messages in order; one for a stream.
        shut: for each end, the SHUT_* state: bit 0 no more receiving, bit 1 no more sending.
        options: for each end, integer SOL_SOCKET options to set again: (option, value), (SO_PASSCRED, 1) for example.
        closed: for each end, True when nobody holds it any more.

    """

    type: int
    queued: tuple[tuple[bytes, ...], tuple[bytes, ...]]
    shut: tuple[int, int] = (0, 0)
    options: tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]] = ((), ())
    closed: tuple[bool, bool] = (False, False)
