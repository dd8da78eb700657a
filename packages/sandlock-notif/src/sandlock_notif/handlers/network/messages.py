"""struct msghdr and its control messages: copied whole, bounded, rebuilt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EBADF, EFAULT, EINVAL, EMSGSIZE, ENOBUFS, EPERM
from struct import Struct
from typing import TYPE_CHECKING, Final

from sandlock_notif import memory
from sandlock_notif.errors import Refusal, VanishedError
from sandlock_notif.handlers.network.addresses import AF_UNIX
from sandlock_sys import procmem, sockets
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from sandlock_notif.processes import Process
    from sandlock_notif.request import Request

__all__ = ["DATAGRAM_MAX", "MESSAGE_SIZE", "Control", "Message", "gather", "parse_control", "parse_message", "rebuild"]

DATAGRAM_MAX: Final = 1 << 20
"""Bytes of one datagram that are copied. The kernel's own bound, the send buffer, is lower unless it was raised."""
MESSAGE_SIZE: Final = 56  # struct user_msghdr, linux/socket.h

_MESSAGE = Struct("=QI4xQQQQI4x")
_VECTOR = Struct("=QQ")  # struct iovec, linux/uio.h
_CONTROL = Struct("=Qii")  # struct cmsghdr, linux/socket.h
_CREDENTIALS = Struct("=iII")  # struct ucred, linux/socket.h
_VECTORS_MAX: Final = 1024  # UIO_MAXIOV, linux/uio.h
_CONTROL_MAX: Final = 20480  # net.core.optmem_max was this for 15 years; descriptors need 1,032
_FDS_MAX: Final = 253  # SCM_MAX_FD, net/scm.h
_ALIGN: Final = 8

_SOL_SOCKET, _SCM_RIGHTS, _SCM_CREDENTIALS = 1, 1, 2  # linux/socket.h
# Control messages that only say how a datagram is sent, not whither by which way (NET-10): (level, type).
_HARMLESS: Final = frozenset(
    {
        (1, 37),  # SO_TIMESTAMPING
        (0, 1), (0, 2), (0, 8),  # IP_TOS, IP_TTL, IP_PKTINFO; linux/in.h. Not IP_RETOPTS, 7
        (41, 50), (41, 52), (41, 67),  # IPV6_PKTINFO, IPV6_HOPLIMIT, IPV6_TCLASS; linux/in6.h. Not IPV6_RTHDR, 57
        (17, 103),  # UDP_SEGMENT; linux/udp.h
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Message:
    """A struct msghdr: where its parts are in the child's memory. `name` is 0 for none."""

    name: int
    name_length: int
    vectors: int
    count: int
    control: int
    control_length: int


@dataclass(slots=True)
class Control:
    """Control messages ready to be sent, and the copies of the child's fds in them, which `close` closes."""

    data: bytes = b""
    fds: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Close the copies."""
        fds, self.fds = self.fds, []
        for fd in fds:
            with suppress(OSError):
                os.close(fd)


def parse_message(raw: bytes) -> Message:
    """Return the fields of a struct msghdr, bounded as the kernel bounds them (copy_msghdr_from_user)."""
    name, name_length, vectors, count, control, control_length, _ = _MESSAGE.unpack(raw[:MESSAGE_SIZE])
    if name_length & 0x80000000:
        raise Refusal(EINVAL)
    if count > _VECTORS_MAX:
        raise Refusal(EMSGSIZE)
    if control_length > _CONTROL_MAX:
        raise Refusal(ENOBUFS)
    if not name:
        name_length = 0
    return Message(name, min(name_length, sockets.ADDRESS_MAX), vectors, count, control, control_length)


def gather(request: Request, message: Message, limit: int, *, whole: bool) -> bytes:
    """Return the data that the iovecs of a message point to, copied once.

    Arguments:
        request: whose memory it is.
        message: says where the iovecs are.
        limit: bytes that are copied at most.
        whole: more than `limit` is EMSGSIZE; otherwise the rest is left out, as a short write leaves it.

    """
    ranges: list[tuple[int, int]] = []
    left = limit
    if message.count:
        raw = memory.read(request, message.vectors, message.count * _VECTOR.size)
        for address, length in _VECTOR.iter_unpack(raw):
            if length & 1 << 63:
                raise Refusal(EINVAL)
            if length > left and whole:
                raise Refusal(EMSGSIZE)
            part = min(length, left)
            if part:
                ranges.append((address, part))
            left -= part
    if not ranges:
        return b""
    into = bytearray(limit - left)
    try:
        transfer = procmem.read_ranges(request.tid, ranges, into)
    except ValueError as error:
        raise Refusal(EFAULT) from error
    if not request.waits():
        raise VanishedError
    if transfer.stop is not None:
        raise Refusal(EFAULT if transfer.stop.errno == EFAULT else EPERM)
    return bytes(into)


def parse_control(raw: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (level, type, data) of each control message; EINVAL for one that does not fit."""
    at = 0
    while at + _CONTROL.size <= len(raw):
        length, level, kind = _CONTROL.unpack_from(raw, at)
        if length < _CONTROL.size or at + length > len(raw):
            raise Refusal(EINVAL)
        yield level, kind, raw[at + _CONTROL.size : at + length]
        at += (length + _ALIGN - 1) & ~(_ALIGN - 1)


def rebuild(domain: int, raw: bytes, process: Process) -> Control:
    """Return the control messages of a socket of `domain` made anew: only what is known, with the child's own fds.

    The numbers in SCM_RIGHTS are the child's; sent as they are, they would hand out fds of the supervisor (NOT-23).
    Credentials are dropped: the kernel fills in those of the sender, which here is the supervisor's process with the
    same user and group. Credentials that are not the child's are refused, also where the supervisor could forge them.
    """
    built = Control()
    try:
        for level, kind, data in parse_control(raw):
            made = _remake(domain, level, kind, data, process, built.fds)
            if made is not None:
                built.data += _CONTROL.pack(_CONTROL.size + len(made), level, kind) + made
                built.data += bytes(-len(made) % _ALIGN)
    except BaseException:
        built.close()
        raise
    return built


def _remake(domain: int, level: int, kind: int, data: bytes, process: Process, fds: list[int]) -> bytes | None:
    """Return the data of one control message to send instead, or None for none; copies of fds are added to `fds`."""
    if domain != AF_UNIX:
        if level == _SOL_SOCKET and kind in (_SCM_RIGHTS, _SCM_CREDENTIALS):
            return None  # passed over by the kernel too
        if (level, kind) not in _HARMLESS:
            raise Refusal(EPERM, f"the control message {level}/{kind} may choose another way out")
        return data
    if (level, kind) == (_SOL_SOCKET, _SCM_RIGHTS):
        first = len(fds)
        _take_fds(data, process, fds)
        return b"".join(fd.to_bytes(4, "little") for fd in fds[first:])
    if (level, kind) == (_SOL_SOCKET, _SCM_CREDENTIALS):
        _check_credentials(data, process)
    return None


def _take_fds(data: bytes, process: Process, into: list[int]) -> None:
    if len(data) % 4 or len(into) + len(data) // 4 > _FDS_MAX:
        raise Refusal(EINVAL)
    for at in range(0, len(data), 4):
        number = int.from_bytes(data[at : at + 4], "little", signed=True)
        try:
            into.append(process.take_fd(number))
        except SyscallError as error:
            if error.errno == EBADF:
                raise Refusal(EBADF) from error
            raise Refusal(EPERM, f"an fd to be passed on cannot be taken: {error}") from error


def _check_credentials(data: bytes, process: Process) -> None:
    if len(data) != _CREDENTIALS.size:
        raise Refusal(EINVAL)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    if uid not in (os.getuid(), os.geteuid()) or gid not in (os.getgid(), os.getegid(), *os.getgroups()):
        raise Refusal(EPERM, f"credentials of user {uid} and group {gid} are not the sender's")
    if pid != process.pid:
        raise Refusal(EPERM, f"credentials of process {pid} are not the sender's")
