"""Calls on another task's socket, by a copy of its fd: the same open socket (pidfd_getfd(2), socket(7)).

Addresses are struct sockaddr as bytes. Nothing here waits for a peer but `connect`, and `send` without MSG_DONTWAIT.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from errno import EBADF, EBADFD, EINTR, ESRCH, ESTALE
from struct import Struct
from typing import Self

from sandlock_sys._buffers import readable, writable
from sandlock_sys._call import check, restarting
from sandlock_sys._ffi import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from sandlock_sys._ffi import CData

__all__ = [
    "ADDRESS_MAX",
    "Socket",
    "Threads",
    "begin_connect",
    "bind",
    "connect",
    "get_option",
    "listen",
    "name_of",
    "peer_of",
    "send",
    "send_timeout",
    "set_option",
    "start_connect",
    "take",
]

ADDRESS_MAX = 128  # struct sockaddr_storage, linux/socket.h

_TIMEVAL = Struct("=qq")
_SOL_SOCKET = 1  # asm-generic/socket.h
_SO_SNDTIMEO = 21  # asm-generic/socket.h


@dataclass(slots=True)
class Socket:
    """A copy of an fd of another task's, which belongs to the holder of this object until `close`.

    Attributes:
        fd: close-on-exec; -1 once closed.
        domain, kind, protocol: SO_DOMAIN, SO_TYPE, SO_PROTOCOL; they never change.
        nonblocking: O_NONBLOCK of the open socket at that moment.
        cookie: SO_COOKIE: no other socket since the start of the machine has or gets it.

    """

    fd: int
    domain: int
    kind: int
    protocol: int
    nonblocking: bool
    cookie: int

    def close(self) -> None:
        """Close the copy; twice is fine."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        """Return the socket itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class Threads:
    """Takes sockets of threads, and keeps a pidfd of each thread for the next time: opening one is the dearest part.

    Safety: a pidfd means one thread for ever. When the thread is gone and its id is another's, the fd answers ESRCH,
    and a new one is opened; so the id as a key confuses nobody.

    Arguments:
        limit: pidfds that are kept; the one that was opened first makes room.

    """

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._pidfds: dict[int, int] = {}

    def take(self, tid: int, remote: int) -> Socket:
        """Return a copy of fd `remote` of thread `tid` with what kind of socket it is, in one step out of Python.

        Safety: the thread id may be another's by now. Use the copy only after a check that it still is who it was.

        Raises:
            SyscallError: EBADF when the thread has no such fd, ENOTSOCK, EPERM without PTRACE_MODE_ATTACH, ESRCH;
                before 6.9 also EINVAL or ENOENT for a thread that does not lead its process.

        """
        taken = ffi.new("struct sl_socket *")
        result = self._call(tid, taken, lambda: lib.sl_socket_take(tid, remote, taken))
        _check_taken(result, tid, remote)
        return _socket(taken)

    def take_with(
        self, listener: int, notification: int, tid: int, remote: int, name: tuple[int, int], data: tuple[int, int]
    ) -> tuple[Socket, bytes, bytes] | None:
        """Return what `take` does, and copies of two ranges of the thread's memory, in one step out of Python.

        Whoever waits in the notification owned all three; None when nobody waits in it any more.

        Arguments:
            listener: the listener's fd.
            notification: the id of the request.
            tid: the thread that made it.
            remote: the fd there.
            name: address and size of the first range.
            data: of the second one.

        Raises:
            SyscallError: as `take`, and EFAULT when a range cannot be read to its end.

        """
        taken = ffi.new("struct sl_socket *")
        first, second = bytearray(name[1]), bytearray(data[1])
        into_first, into_second = writable(first), writable(second)
        result = self._call(
            tid,
            taken,
            lambda: lib.sl_socket_take_with(
                listener, notification, tid, remote, taken,
                name[0], into_first, name[1], data[0], into_second, data[1],
            ),
        )  # fmt: skip
        if result == -ESTALE:
            return None
        _check_taken(result, tid, remote)
        return _socket(taken), bytes(first), bytes(second)

    def close(self) -> None:
        """Close what is kept."""
        while self._pidfds:
            os.close(self._pidfds.popitem()[1])

    def _call(self, tid: int, taken: CData, call: Callable[[], int]) -> int:
        known = self._pidfds.get(tid, -1)
        taken.pidfd = known
        result = call()
        if result == -ESRCH and known >= 0:  # that thread is gone
            os.close(self._pidfds.pop(tid))
            known = taken.pidfd = -1
            result = call()
        if known < 0 and taken.pidfd >= 0:
            if len(self._pidfds) >= self._limit:
                os.close(self._pidfds.pop(next(iter(self._pidfds))))
            self._pidfds[tid] = taken.pidfd
        return result


def take(tid: int, remote: int) -> Socket:
    """Return what `Threads.take` does, once; nothing is kept."""
    threads = Threads()
    try:
        return threads.take(tid, remote)
    finally:
        threads.close()


def _check_taken(result: int, tid: int, remote: int) -> None:
    if result < 0:
        check("pidfd_getfd", -EBADF if result == -EBADFD else result, f"thread {tid}, fd {remote}")


def _socket(taken: CData) -> Socket:
    return Socket(taken.fd, taken.domain, taken.type, taken.protocol, bool(taken.nonblocking), taken.cookie)


def connect(fd: int, address: bytes) -> int:
    """Connect and return 0 or a positive errno; EINTR is one of them."""
    return -int(lib.sl_socket_connect(fd, readable(address), len(address)))


def start_connect(fd: int, address: bytes) -> int:
    """Start to connect a TCP socket, or look how far that is, without waiting, whatever O_NONBLOCK says.

    Returns 0 when it is connected now, EALREADY when it is not yet (wait until it is writable, and ask again),
    EOPNOTSUPP when the host has switched off what this needs (net.ipv4.tcp_fastopen, bit 0), or what connect(2) fails
    with. The SYN is an ordinary one. TCP_FASTOPEN_NO_COOKIE stays set on the socket.
    """
    while True:
        result = -int(lib.sl_socket_start(fd, readable(address), len(address)))
        if result != EINTR:
            return result


def begin_connect(fd: int, address: bytes) -> int:
    """Connect a TCP socket as connect(2) does where O_NONBLOCK is set, whether or not it is set.

    Returns 0 or a positive errno: EINPROGRESS when it has begun, EALREADY when it had begun before, EOPNOTSUPP as
    `start_connect`, which says what else holds.
    """
    return max(0, -int(lib.sl_socket_begin(fd, readable(address), len(address))))


def bind(fd: int, address: bytes) -> int:
    """Bind and return 0 or a positive errno."""
    return -int(lib.sl_socket_bind(fd, readable(address), len(address)))


def listen(fd: int, backlog: int) -> int:
    """Listen and return 0 or a positive errno."""
    return -int(lib.sl_socket_listen(fd, backlog))


def send(
    fd: int, data: bytes | bytearray | memoryview, flags: int, name: bytes = b"", control: bytes = b""
) -> int:  # fmt: skip
    """Send one message; return how much of it went, or a negated errno.

    Arguments:
        fd: the socket.
        data: of one buffer.
        flags: MSG_*; MSG_NOSIGNAL should be among them, or this process gets SIGPIPE.
        name: the destination, empty for none.
        control: control messages, as sendmsg(2) wants them; their fds are this process's.

    """
    result: int = lib.sl_socket_send(
        fd, readable(data), len(data), readable(name), len(name), readable(control), len(control), flags
    )  # fmt: skip
    return result


def name_of(fd: int) -> bytes:
    """Return the socket's own address.

    Raises:
        SyscallError: what getsockname(2) fails with.

    """
    return _name(fd, 0)


def peer_of(fd: int) -> bytes:
    """Return the address of the socket's peer.

    Raises:
        SyscallError: ENOTCONN and others of getpeername(2).

    """
    return _name(fd, 1)


def get_option(fd: int, level: int, option: int, size: int = 4) -> bytes:
    """Return a socket option as bytes.

    Raises:
        SyscallError: what getsockopt(2) fails with.

    """
    memory = bytearray(size)
    used = check("getsockopt", lib.sl_socket_get(fd, level, option, writable(memory), size), f"option {option}")
    return bytes(memory[:used])


def set_option(fd: int, level: int, option: int, value: bytes) -> None:
    """Set a socket option.

    Raises:
        SyscallError: what setsockopt(2) fails with.

    """
    check("setsockopt", lib.sl_socket_set(fd, level, option, readable(value), len(value)), f"option {option}")


def send_timeout(fd: int) -> float | None:
    """Return SO_SNDTIMEO in seconds, which also bounds connect(2); None when there is none."""
    seconds, microseconds = _TIMEVAL.unpack(get_option(fd, _SOL_SOCKET, _SO_SNDTIMEO, _TIMEVAL.size))
    return seconds + microseconds / 1e6 or None


def _name(fd: int, peer: int) -> bytes:
    memory = bytearray(ADDRESS_MAX)
    call = "getpeername" if peer else "getsockname"
    length = check(call, restarting(lib.sl_socket_name, fd, peer, writable(memory), ADDRESS_MAX))
    return bytes(memory[: min(length, ADDRESS_MAX)])
