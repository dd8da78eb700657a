"""What a policy callback is told about a call: plain facts, copied once, and never a path.

A path in an event would invite a decision on it, and the program can change it after the decision.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from errno import EINVAL, EPERM
from typing import TYPE_CHECKING

from sandlock_notif import memory
from sandlock_notif.errors import Refusal
from sandlock_notif.handlers.exec import read_words
from sandlock_notif.handlers.network.messages import MESSAGE_SIZE, parse_message
from sandlock_notif.sockaddr import parse_endpoint
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import read_stat

if TYPE_CHECKING:
    from sandlock_notif.dispatch import Services
    from sandlock_notif.request import Request

__all__ = ["SyscallEvent", "describe"]

_ADDRESS = {"connect": (1, 2), "bind": (1, 2), "sendto": (4, 5)}  # arguments: pointer, length
_SIZE = {"sendto": 2, "mmap": 1, "mremap": 2, "truncate": 1}
_ARGV = {"execve": 1, "execveat": 2}
_SOCKADDR_MAX = 128  # sizeof(struct sockaddr_storage), linux/socket.h
_MMSG_SIZE = 64  # struct mmsghdr, linux/socket.h
_MMSG_MAX = 1024  # UIO_MAXIOV, linux/uio.h
_PLACES_MAX = 64  # pointers to the one destination of many messages; nobody else is served meanwhile


@dataclass(frozen=True, slots=True)
class SyscallEvent:
    """One call.

    Attributes:
        syscall: its name.
        category: "file", "network", "process" or "memory".
        pid: of the calling process, as the host sees it.
        parent_pid: of its parent, or 0.
        host: numeric address that is connected, bound or sent to, without port; None where there is none. A sendmmsg
            to several is refused before anybody is asked.
        port: its port, or None.
        argv: of an exec, as str with surrogates for bytes that are no UTF-8; None otherwise.
        size: bytes that are sent or mapped, or None.
        denied: a layer has refused the call already; False where that is not known yet.

    """

    syscall: str
    category: str
    pid: int
    parent_pid: int = 0
    host: str | None = None
    port: int | None = None
    argv: tuple[str, ...] | None = None
    size: int | None = None
    denied: bool = False

    def argv_contains(self, text: str) -> bool:
        """Whether any word of `argv` contains `text`."""
        return any(text in word for word in self.argv or ())

    def detail(self) -> dict[str, object]:
        """Return what is known beside the call, for an event."""
        known = {"host": self.host, "port": self.port, "argv": self.argv, "size": self.size}
        return {name: value for name, value in known.items() if value is not None}


def describe(request: Request, name: str, category: str, services: Services) -> SyscallEvent:
    """Gather the event of a call.

    Raises:
        Refusal: an argument points nowhere, or at too much; the call fails with that errno.
        VanishedError: the task no longer waits.

    """
    process = services.processes.of(request)
    parent = 0
    with suppress(SyscallError):
        parent = read_stat(process.pid).ppid
    host, port = _endpoint(request, name)
    size = request.args[_SIZE[name]] if name in _SIZE else None
    words = read_words(request, request.args[_ARGV[name]]) if name in _ARGV else None
    argv = tuple(word.decode("utf-8", "surrogateescape") for word in words) if words is not None else None
    return SyscallEvent(name, category, process.pid, parent, host, port, argv, size)


def _endpoint(request: Request, name: str) -> tuple[str | None, int | None]:
    if name in _ADDRESS:
        pointer, length = (request.args[index] for index in _ADDRESS[name])
        if not pointer:
            return None, None
        length &= 0xFFFFFFFF
        if length > _SOCKADDR_MAX:
            raise Refusal(EINVAL)
        return parse_endpoint(memory.read(request, pointer, length))
    if name == "sendmsg":
        return parse_endpoint(_destination(request, memory.read(request, request.args[1], MESSAGE_SIZE)) or b"")
    if name == "sendmmsg":
        return _common_endpoint(request)
    return None, None


def _common_endpoint(request: Request) -> tuple[str | None, int | None]:
    """Return where all messages of a sendmmsg go; refuse several destinations, of which an event could show only one.

    A resolver that asks for two records at once sends both on a connected socket, so to no name at all.
    """
    count = min(request.args[2] & 0xFFFFFFFF, _MMSG_MAX)
    if not count:
        return None, None
    raw = memory.read(request, request.args[1], count * _MMSG_SIZE)  # from where the sender reads
    messages = [parse_message(raw[at : at + MESSAGE_SIZE]) for at in range(0, len(raw), _MMSG_SIZE)]
    places = {(message.name, message.name_length) for message in messages}
    reason = "one sendmmsg to several destinations cannot be shown to the policy callback"
    if len(places) > _PLACES_MAX:
        raise Refusal(EPERM, reason)
    names = {_name(request, *place) for place in places}
    if len(names) > 1:
        raise Refusal(EPERM, reason)
    return parse_endpoint(names.pop() or b"")


def _destination(request: Request, raw: bytes) -> bytes | None:
    """Return the socket address that a struct msghdr points to; None where it goes to the peer."""
    message = parse_message(raw)
    return _name(request, message.name, message.name_length)


def _name(request: Request, address: int, length: int) -> bytes | None:
    return memory.read(request, address, length) if address else None
