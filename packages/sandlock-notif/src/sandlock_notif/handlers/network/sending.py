"""sendto(2), sendmsg(2) and sendmmsg(2) on behalf: all that the child wrote is copied once, and the copy is sent."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from errno import EAGAIN, EMSGSIZE, EOPNOTSUPP, EPERM, EPIPE
from signal import SIGPIPE
from typing import TYPE_CHECKING, Final

from sandlock_notif import memory
from sandlock_notif.action import Errno, Value
from sandlock_notif.errors import Refusal, VanishedError
from sandlock_notif.handlers.network.addresses import AF_INET, AF_INET6, AF_UNIX, bind_target, send_target
from sandlock_notif.handlers.network.gate import STREAM, protocol_of
from sandlock_notif.handlers.network.messages import (
    DATAGRAM_MAX,
    MESSAGE_SIZE,
    Control,
    Message,
    gather,
    parse_message,
    rebuild,
)
from sandlock_notif.handlers.network.pinning import (
    InterruptedWaitError,
    Pending,
    holding,
    look,
    read_name,
    take,
    take_named,
    wait_until_writable,
)
from sandlock_sys import sockets

if TYPE_CHECKING:
    from sandlock_notif.action import Action
    from sandlock_notif.handlers.network.gate import Gate
    from sandlock_notif.handlers.network.pinning import Source
    from sandlock_notif.handlers.network.ports import PortMap
    from sandlock_notif.handlers.network.unix import UnixPeers
    from sandlock_notif.request import Request
    from sandlock_sys.sockets import Socket

__all__ = ["Sender"]

_SEQPACKET: Final = 5  # SOCK_SEQPACKET, linux/net.h
_UDP_MAX: Final = 65535  # the length field of UDP and of IP
_CHUNK: Final = 1 << 18  # of a stream, copied and sent at a time: a short write is no surprise there
_MMSG_SIZE: Final = 64  # struct mmsghdr: a struct msghdr and what was sent
# The kernel takes 1,024 messages of 1,024 parts; the loop has others to serve, so fewer go at once (NOT-14).
_MMSG_MAX: Final = 16
_MMSG_VECTORS: Final = 256
_MMSG_BYTES: Final = 1 << 20
_NO_CONTROL: Final = Control()
_RETRY_S: Final = (0.001, 0.05)  # a full datagram queue of a Unix peer wakes nobody who is not connected to it

# linux/socket.h
_DONTWAIT: Final = 0x40
_NOSIGNAL: Final = 0x4000
_FASTOPEN: Final = 0x20000000
# MSG_OOB, DONTROUTE, DONTWAIT, EOR, CONFIRM, NOSIGNAL, MORE. Not MSG_ZEROCOPY: the pages would be the supervisor's.
_PASSED: Final = 0x1 | 0x4 | _DONTWAIT | 0x80 | 0x800 | _NOSIGNAL | 0x8000


class Sender:
    """Sends for one sandbox.

    Arguments:
        gate: who may be reached on IP.
        ports: the sandbox's own port space.
        unix: who may be reached by Unix sockets.

    Attributes:
        source: where sockets are taken from; set when the table is attached.

    """

    def __init__(self, gate: Gate, ports: PortMap, unix: UnixPeers) -> None:
        self._gate = gate
        self._ports = ports
        self._unix = unix
        self.source: Source | None = None

    def sendto(self, request: Request) -> Action | Pending:
        """Answer sendto: fd, data, size, flags, name, length of the name."""
        flags = _checked(request.int_arg(3))
        _, data_at, size, _, name_at, _ = request.args
        # A larger one is a large stream write, or an error: which of them, the socket says.
        quick = size <= _UDP_MAX
        pinned, name, data = take_named(
            request, self._source(), (name_at, request.int_arg(5) if name_at else 0), (data_at, size if quick else 0)
        )
        try:
            if not quick:
                data = _large(request, pinned, data_at, size)
            answer = self._send(request, pinned, name if name_at else None, data, b"", flags)
        except BaseException:
            pinned.close()
            raise
        if not isinstance(answer, Pending):
            pinned.close()
        return answer

    def sendmsg(self, request: Request) -> Action | Pending:
        """Answer sendmsg: fd, message, flags."""
        flags = _checked(request.int_arg(2))

        def work(pinned: Socket) -> Action | Pending:
            message = parse_message(memory.read(request, request.args[1], MESSAGE_SIZE))
            return self._send_message(request, pinned, message, flags)

        return holding(take(request, self._source()), work)

    def sendmmsg(self, request: Request) -> Action | Pending:
        """Answer sendmmsg: fd, messages, count, flags. Each message is judged; the first failure ends it (NET-05).

        A long call ends early: the answer is how many went, as the kernel may answer as well.
        """
        flags = _checked(request.int_arg(3))

        def work(pinned: Socket) -> Action | Pending:
            count = min(request.args[2] & 0xFFFFFFFF, _MMSG_MAX)
            base = request.args[1]
            raw = memory.read(request, base, count * _MMSG_SIZE) if count else b""
            vectors = sent = 0
            for index in range(count):
                at = index * _MMSG_SIZE
                try:
                    message = parse_message(raw[at : at + MESSAGE_SIZE])
                    vectors += message.count
                    if index and (vectors > _MMSG_VECTORS or sent >= _MMSG_BYTES):
                        return Value(index)
                    answer = self._send_message(request, pinned, message, flags if not index else flags | _DONTWAIT)
                except Refusal:
                    if not index:
                        raise
                    return Value(index)
                if isinstance(answer, Pending):  # the first one waits, and is all that is sent this time
                    return Pending(_first_of_many(request, answer, base + MESSAGE_SIZE), pinned)
                if not isinstance(answer, Value):
                    return Value(index) if index else answer
                memory.write(request, base + at + MESSAGE_SIZE, answer.value.to_bytes(4, "little"))
                sent += answer.value
            return Value(count)

        return holding(take(request, self._source()), work)

    def _source(self) -> Source:
        assert self.source is not None  # noqa: S101  # attached before the first request
        return self.source

    def _send_message(self, request: Request, pinned: Socket, message: Message, flags: int) -> Action | Pending:
        limit, whole = _bounds(pinned)
        data = gather(request, message, limit, whole=whole)
        name = read_name(request, message.name, message.name_length) if message.name else None
        control = memory.read(request, message.control, message.control_length) if message.control_length else b""
        return self._send(request, pinned, name, data, control, flags)

    def _send(
        self, request: Request, pinned: Socket, name: bytes | None, data: bytes, control: bytes, flags: int
    ) -> Action | Pending:
        """Send one message: find out where it may go, and send without waiting; wait only where the child would."""
        if pinned.domain == AF_UNIX and pinned.kind not in (STREAM, _SEQPACKET) and name is not None:
            return Pending(self._send_to_file(request, pinned, name, data, control, flags), pinned)
        destination = self._destination(request, pinned, name) if name is not None else b""
        rebuilt = self._rebuild(request, pinned, control) if control else _NO_CONTROL
        result = sockets.send(pinned.fd, data, flags | _DONTWAIT | _NOSIGNAL, destination, rebuilt.data)
        waits = not (pinned.nonblocking or flags & _DONTWAIT)
        if waits and (result == -EAGAIN or (pinned.kind == STREAM and 0 <= result < len(data))):
            return Pending(self._send_later(request, pinned, destination, data, rebuilt, flags, result), pinned)
        rebuilt.close()
        return self._outcome(request, pinned, result, flags)

    def _destination(self, request: Request, pinned: Socket, name: bytes) -> bytes:
        """Return the name to send with; empty to send to the peer."""
        known = self._gate.known(pinned, name)
        if known is not None:
            return known
        if pinned.kind == STREAM or pinned.domain == AF_UNIX:
            return b""  # a connected stream does not look at the name, and one without a peer fails
        if pinned.domain not in (AF_INET, AF_INET6):
            raise Refusal(EPERM, f"sockets of family {pinned.domain} send to nobody")
        protocol = protocol_of(pinned, EPERM)
        self._gate.inside.add(pinned.cookie)
        target = send_target(pinned.domain, name)
        if target is None:
            return b""
        target = self._ports.real_target(protocol, target.canonical())
        self._gate.check_live(request, protocol, target, EPERM)
        ruled = self._gate.check(
            protocol, target, lambda: bind_target(pinned.domain, sockets.name_of(pinned.fd)), EPERM
        )  # fmt: skip
        packed = target.pack()
        if ruled:
            self._gate.remember(pinned, name, packed)
        return packed

    def _rebuild(self, request: Request, pinned: Socket, control: bytes) -> Control:
        return rebuild(pinned.domain, control, self._source().processes.of(request)) if control else _NO_CONTROL

    async def _send_later(
        self,
        request: Request,
        pinned: Socket,
        destination: bytes,
        data: bytes,
        control: Control,
        flags: int,
        result: int,
    ) -> Action:
        """Go on with a message that found no room, or only room for a part, as a blocking socket does."""
        sent = max(result, 0)
        timeout_s = sockets.send_timeout(pinned.fd)
        try:
            while True:
                if not await wait_until_writable(request, pinned.fd, timeout_s):
                    break
                rest = memoryview(data)[sent:]
                extra = b"" if sent else control.data
                result = sockets.send(pinned.fd, rest, flags | _DONTWAIT | _NOSIGNAL, destination, extra)
                sent += max(result, 0)
                if result != -EAGAIN and (result <= 0 or pinned.kind != STREAM or sent >= len(data)):
                    break
        except (VanishedError, InterruptedWaitError):
            if not sent:
                raise
        finally:
            control.close()
        return self._outcome(request, pinned, sent or result, flags)

    async def _send_to_file(
        self, request: Request, pinned: Socket, name: bytes, data: bytes, control: bytes, flags: int
    ) -> Action:
        """Send a datagram to a Unix socket by its name."""
        timeout_s = sockets.send_timeout(pinned.fd)
        waits = not (pinned.nonblocking or flags & _DONTWAIT)
        end = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        pause_s = _RETRY_S[0]
        rebuilt = self._rebuild(request, pinned, control)
        try:
            async with self._unix.reach(request, pinned, name, EPERM) as destination:
                while True:
                    result = sockets.send(pinned.fd, data, flags | _DONTWAIT | _NOSIGNAL, destination, rebuilt.data)
                    self._gate.inside.note_abstract(pinned)  # sending names a socket with SO_PASSCRED
                    late = end is not None and asyncio.get_running_loop().time() >= end
                    if result != -EAGAIN or not waits or late:
                        return self._outcome(request, pinned, result, flags)
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, _RETRY_S[1])
                    look(request)
        finally:
            rebuilt.close()

    def _outcome(self, request: Request, pinned: Socket, result: int, flags: int) -> Action:
        if result >= 0:
            return Value(result)
        if result == -EPIPE and pinned.kind in (STREAM, _SEQPACKET) and not flags & _NOSIGNAL:
            process = self._source().processes.of(request)
            with suppress(OSError):
                process.send_signal(SIGPIPE)
        return Errno(-result)


def _checked(flags: int) -> int:
    """Return the flags that are passed on."""
    if flags & _FASTOPEN:
        raise Refusal(EOPNOTSUPP)  # as where it is switched off; the filter says the same (LL-09)
    return flags & _PASSED


def _bounds(pinned: Socket) -> tuple[int, bool]:
    """Return how much of a message is copied, and whether more than that is an error."""
    if pinned.kind == STREAM:
        return _CHUNK, False
    return (DATAGRAM_MAX if pinned.domain == AF_UNIX else _UDP_MAX), True


def _large(request: Request, pinned: Socket, address: int, size: int) -> bytes:
    limit, whole = _bounds(pinned)
    if whole and size > limit:
        raise Refusal(EMSGSIZE)
    return memory.read(request, address, min(size, limit))


async def _first_of_many(request: Request, first: Pending, at: int) -> Action:
    answer = await first
    if not isinstance(answer, Value):
        return answer
    memory.write(request, at, answer.value.to_bytes(4, "little"))
    return Value(1)
