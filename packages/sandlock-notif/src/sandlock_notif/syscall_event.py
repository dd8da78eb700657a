"""What a policy callback is told about a call: plain facts, copied once, and never a path.

A path in an event would invite a decision on it, and the program can change it after the decision.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from struct import unpack
from typing import TYPE_CHECKING

from sandlock_notif import memory
from sandlock_notif.errors import Refusal
from sandlock_notif.handlers.exec import read_words
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


@dataclass(frozen=True, slots=True)
class SyscallEvent:
    """One call.

    Attributes:
        syscall: its name.
        category: "file", "network", "process" or "memory".
        pid: of the calling process, as the host sees it.
        parent_pid: of its parent, or 0.
        host: numeric address that is connected, bound or sent to, without port; None where there is none.
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
            raise Refusal(22)  # EINVAL, as the kernel answers
        return parse_endpoint(memory.read(request, pointer, length))
    if name == "sendmsg":
        return _message_endpoint(request, request.args[1])
    if name == "sendmmsg":
        return _message_endpoint(request, request.args[1])  # of the first message; each is judged when it is sent
    return None, None


def _message_endpoint(request: Request, pointer: int) -> tuple[str | None, int | None]:
    """Return the destination of the struct msghdr at `pointer` (linux/socket.h: msg_name, msg_namelen come first)."""
    address, length = unpack("=QI", memory.read(request, pointer, 12))
    if not address:
        return None, None
    return parse_endpoint(memory.read(request, address, min(length, _SOCKADDR_MAX)))
