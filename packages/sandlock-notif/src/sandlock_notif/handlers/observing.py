"""Watching what a program uses, so that a policy can be written for it. Decides nothing: every call goes on.

What is copied from the program's memory here may be another by the time the kernel looks; whoever reads the record has
to trust the program it was made of.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from struct import unpack_from
from typing import TYPE_CHECKING, Final

from sandlock_notif import memory
from sandlock_notif.content.dns import parse_question
from sandlock_notif.dispatch import HandlerTable, Services, Trap
from sandlock_notif.errors import Refusal, VanishedError
from sandlock_notif.handlers.network.messages import MESSAGE_SIZE, gather, parse_message
from sandlock_notif.observed import Observed
from sandlock_notif.sockaddr import parse_endpoint
from sandlock_sys import sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlock_notif.request import Request

__all__ = ["Observer"]

_AT_FDCWD: Final = -100  # linux/fcntl.h
_NONE: Final = -1  # no argument
_O_PATH: Final = 0o10000000  # asm-generic/fcntl.h
_O_TMPFILE: Final = 0o20000000  # as above, without O_DIRECTORY
_DNS_PORT: Final = 53
_DNS_MAX: Final = 512  # bytes of a query that are looked at
_MMSG_SIZE: Final = 64  # struct mmsghdr, linux/socket.h
_MMSG_MAX: Final = 16

# call -> (argument with the directory's fd, argument with the path): of a name that it makes where there is none
_CREATES: Final[dict[str, tuple[int, int]]] = {
    "mkdir": (_NONE, 0),
    "mkdirat": (0, 1),
    "mknod": (_NONE, 0),
    "mknodat": (0, 1),
    "symlink": (_NONE, 1),
    "symlinkat": (1, 2),
}
# of names that it makes or takes away; nothing happens where the first is not there
_MOVES: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "link": ((_NONE, 0), (_NONE, 1)),
    "linkat": ((0, 1), (2, 3)),
    "unlink": ((_NONE, 0),),
    "unlinkat": ((0, 1),),
    "rmdir": ((_NONE, 0),),
    "rename": ((_NONE, 0), (_NONE, 1)),
    "renameat": ((0, 1), (2, 3)),
    "renameat2": ((0, 1), (2, 3)),
}
# of a file that it changes
_CHANGES: Final[dict[str, tuple[int, int]]] = {
    "truncate": (_NONE, 0),
    "chmod": (_NONE, 0),
    "fchmod": (0, _NONE),
    "fchmodat": (0, 1),
    "fchmodat2": (0, 1),
    "chown": (_NONE, 0),
    "lchown": (_NONE, 0),
    "fchown": (0, _NONE),
    "fchownat": (0, 1),
    "utime": (_NONE, 0),
    "utimes": (_NONE, 0),
    "utimensat": (0, 1),
    "futimesat": (0, 1),
    "setxattr": (_NONE, 0),
    "lsetxattr": (_NONE, 0),
    "fsetxattr": (0, _NONE),
    "removexattr": (_NONE, 0),
    "lremovexattr": (_NONE, 0),
    "fremovexattr": (0, _NONE),
}
_RUNS: Final[dict[str, tuple[int, int]]] = {"execve": (_NONE, 0), "execveat": (0, 1)}


class Observer(HandlerTable):
    """Keeps in `seen` what the programs of one sandbox use."""

    name = "observer"

    def __init__(self) -> None:
        self.seen = Observed()
        self._services: Services | None = None

    def traps(self) -> Sequence[Trap]:
        """Return every call by which something is used that a policy can grant."""
        handlers: dict[str, Callable[[Request], None]] = {
            **dict.fromkeys(_CREATES, self._create),
            **dict.fromkeys(_MOVES, self._move),
            **dict.fromkeys(_CHANGES, self._change),
            **dict.fromkeys(_RUNS, self._run),
            **dict.fromkeys(("open", "creat", "openat", "openat2"), self._open),
            **dict.fromkeys(("connect", "bind", "listen"), self._socket),
            **dict.fromkeys(("sendto", "sendmsg", "sendmmsg"), self._send),
        }
        return [Trap(call, self._noting(note), "it is observed", (), "memory") for call, note in handlers.items()]

    def attach(self, services: Services) -> None:
        """Remember whose processes they are."""
        self._services = services

    def _noting(self, note: Callable[[Request], None]) -> Callable[[Request], None]:
        def handle(request: Request) -> None:
            # What cannot be read, or found, is not used either: the kernel tells the program so.
            with suppress(Refusal, VanishedError, OSError, ValueError):
                note(request)

        return handle

    def _call(self, request: Request) -> str:
        assert self._services is not None  # noqa: S101  # attached before the child runs
        return self._services.arch.name_of(request.nr)

    def _open(self, request: Request) -> None:
        call = self._call(request)
        if call == "openat2":
            flags = unpack_from("=Q", memory.read(request, request.args[2], 8))[0]
        elif call == "creat":
            flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        else:
            flags = request.args[1 if call == "open" else 2]
        if flags & _O_PATH:
            return  # it opens nothing
        path = _path(request, *((0, 1) if call.startswith("openat") else (_NONE, 0)))
        if flags & _O_TMPFILE:
            self.seen.make(f"{path}/.")
        elif flags & os.O_CREAT and not os.path.lexists(path):
            self.seen.make(path)
        elif flags & (os.O_ACCMODE | os.O_TRUNC):
            self.seen.write(path)
        else:
            self.seen.read(path)

    def _create(self, request: Request) -> None:
        path = _path(request, *_CREATES[self._call(request)])
        if not os.path.lexists(path):
            self.seen.make(path)

    def _move(self, request: Request) -> None:
        paths = [_path(request, *place) for place in _MOVES[self._call(request)]]
        if os.path.lexists(paths[0]):
            for path in paths:
                self.seen.make(path)

    def _change(self, request: Request) -> None:
        self.seen.write(_path(request, *_CHANGES[self._call(request)]))

    def _run(self, request: Request) -> None:
        self.seen.run(_path(request, *_RUNS[self._call(request)]))

    def _socket(self, request: Request) -> None:
        call = self._call(request)
        with self._taken(request) as own:
            if call == "listen":
                name = own.getsockname()
                if own.family in (socket.AF_INET, socket.AF_INET6):
                    self.seen.listen(name[1])
                return
            raw = memory.read(request, request.args[1], min(request.args[2] & 0xFFFFFFFF, sockets.ADDRESS_MAX))
            if own.family == socket.AF_UNIX:
                self._unix(request, raw, bound=call == "bind")
                return
            host, port = parse_endpoint(raw)
            if host is None or port is None:
                return
            if call == "bind":
                self.seen.bind(port)
            else:
                self.seen.connect(_protocol(own), host, port)

    def _send(self, request: Request) -> None:
        call = self._call(request)
        with self._taken(request) as own:
            for raw, data in _messages(request, call):
                if own.family == socket.AF_UNIX:
                    if raw:
                        self._unix(request, raw, bound=False)
                    continue
                if own.family not in (socket.AF_INET, socket.AF_INET6) or own.type == socket.SOCK_STREAM:
                    continue
                host, port = parse_endpoint(raw) if raw else own.getpeername()[:2]
                if host is None or port is None:
                    continue
                asked = ""
                if port == _DNS_PORT:
                    with suppress(ValueError):
                        asked = parse_question(data).name
                self.seen.send(_protocol(own), host, port, asked)

    def _unix(self, request: Request, raw: bytes, *, bound: bool) -> None:
        name = raw[2:].split(b"\0", 1)[0]
        if name:  # an abstract one, or none at all, is no file
            path = _absolute(request.tid, _AT_FDCWD, name)
            if bound:
                self.seen.make(path)
            else:
                self.seen.call_on(path)

    def _taken(self, request: Request) -> socket.socket:
        """Return a copy of the socket that argument 0 names, which the caller closes."""
        assert self._services is not None  # noqa: S101  # as above
        return socket.socket(fileno=self._services.processes.of(request).take_fd(request.int_arg(0)))


def _messages(request: Request, call: str) -> list[tuple[bytes, bytes]]:
    """Return (address or nothing, beginning of the data) of each message of a send."""
    if call == "sendto":
        _, at, size, _, name, length = request.args
        raw = memory.read(request, name, min(length & 0xFFFFFFFF, sockets.ADDRESS_MAX)) if name else b""
        return [(raw, memory.read(request, at, min(size, _DNS_MAX)))]
    if call == "sendmsg":
        return [_message(request, memory.read(request, request.args[1], MESSAGE_SIZE))]
    count = min(request.args[2] & 0xFFFFFFFF, _MMSG_MAX)
    whole = memory.read(request, request.args[1], count * _MMSG_SIZE)
    return [_message(request, whole[at : at + MESSAGE_SIZE]) for at in range(0, len(whole), _MMSG_SIZE)]


def _message(request: Request, raw: bytes) -> tuple[bytes, bytes]:
    message = parse_message(raw)
    name = memory.read(request, message.name, message.name_length) if message.name else b""
    return name, gather(request, message, _DNS_MAX, whole=False)


def _protocol(own: socket.socket) -> str:
    if own.type == socket.SOCK_STREAM:
        return "tcp"
    return "icmp" if own.proto in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6) else "udp"


def _path(request: Request, folder: int, argument: int) -> str:
    """Return the absolute path that a call names; the path of the fd where it names none."""
    base = _AT_FDCWD if folder == _NONE else request.int_arg(folder)
    if argument == _NONE or not request.args[argument]:
        return _absolute(request.tid, base, b"")
    return _absolute(request.tid, base, memory.read_path(request, argument))


def _absolute(tid: int, base: int, path: bytes) -> str:
    """Return `path` as thread `tid` means it; /proc/self and the like stand for that thread, not for this process."""
    text = os.fsdecode(path)
    own = f"/proc/{tid}"
    if text[:1] != "/":
        folder = os.readlink(f"{own}/cwd" if base == _AT_FDCWD else f"{own}/fd/{base}")
        text = f"{folder}/{text}" if text else folder
    for name, link in (("/dev/stdin", "/fd/0"), ("/dev/stdout", "/fd/1"), ("/dev/stderr", "/fd/2")):
        text = own + link if text == name else text
    for name, stands in (("/proc/self/", f"{own}/"), ("/proc/thread-self/", f"{own}/"), ("/dev/fd/", f"{own}/fd/")):
        text = stands + text[len(name) :] if text.startswith(name) else text
    if text.startswith(f"{own}/fd/"):
        text = os.readlink(text)
    if text[:1] != "/":
        raise ValueError(f"{text} is no file")  # a pipe, a socket, a file without a name
    return text
