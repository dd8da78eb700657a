"""Sockets that the sandbox itself made: who listens on a port of this machine's loopback, one of them or the host.

The kernel is asked who would get what is sent there (sock_diag(7)), and answers with the socket's cookie, which no
other socket ever has. So an entry that outlives its socket allows nothing.
"""

from __future__ import annotations

import os
import socket
from errno import ENOENT
from struct import Struct
from typing import TYPE_CHECKING, Final

from sandlock_notif.handlers.network.addresses import AF_INET, AF_INET6, AF_UNIX
from sandlock_policy.matching import canonical_address
from sandlock_sys import sockets

if TYPE_CHECKING:
    from sandlock_notif.handlers.network.addresses import Inet
    from sandlock_sys.sockets import Socket

__all__ = ["Inside", "SocketDiagnosis"]

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG, linux/netlink.h, 3.3
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY, linux/sock_diag.h
_ERROR: Final = 2  # NLMSG_ERROR, linux/netlink.h
_REQUEST_FLAG: Final = 1  # NLM_F_REQUEST, linux/netlink.h
_HEADER = Struct("=IHHII")  # struct nlmsghdr
_ASK = Struct("=BBBBI HH16s16sIII".replace(" ", ""))  # struct inet_diag_req_v2, linux/inet_diag.h
_ANSWER_COOKIE_AT: Final = _HEADER.size + 4 + 40  # in struct inet_diag_msg: behind the ports, addresses and interface
_COOKIE = Struct("=II")
_ANY_COOKIE: Final = 0xFFFFFFFF
_ASK_UNIX = Struct("=BBHIIIII")  # struct unix_diag_req, linux/unix_diag.h, 3.3
_UNIX_COOKIE_AT: Final = 8  # in struct unix_diag_msg: behind family, type, state and inode
_ALL_STATES: Final = 0xFFFFFFFF
_SHOW_NAME, _SHOW_FILE = 1, 2  # UDIAG_SHOW_NAME, UDIAG_SHOW_VFS
_NAME_ATTRIBUTE, _FILE_ATTRIBUTE = 0, 1  # UNIX_DIAG_NAME, UNIX_DIAG_VFS
_ATTRIBUTE = Struct("=HH")  # struct nlattr
_PROTOCOLS = {"tcp": 6, "udp": 17}
_NAMES_MAX: Final = 4096  # abstract names remembered, likewise
_KNOWN_MAX: Final = 65536  # sockets remembered; the ones seen longest ago are forgotten
_LOOPBACK: Final = bytes((127, 0, 0, 1))


class SocketDiagnosis:
    """Asks the kernel which socket is behind an address and a port of this machine; never waits."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG)
        self._socket.setblocking(False)

    def owner(self, protocol: str, source: tuple[bytes, int], target: tuple[bytes, int]) -> int | None:
        """Return the cookie of the socket that gets what goes from `source` to `target`, or None: nobody.

        Arguments:
            protocol: "tcp" (who listens) or "udp".
            source: address of 4 or 16 bytes, and port, of the sender.
            target: likewise, of the same length, where it is sent.

        Raises:
            OSError: the kernel does not tell.

        """
        kind = _PROTOCOLS[protocol]
        # For TCP the local end is the source of the question; for UDP the two are swapped (udp_dump_one).
        first, second = (target, (source[0], 0)) if kind == 6 else (source, target)
        family = AF_INET if len(target[0]) == 4 else AF_INET6
        ports = [int.from_bytes(port.to_bytes(2, "big"), "little") for _, port in (first, second)]
        body = _ASK.pack(
            family, kind, 0, 0, 0, *ports, first[0].ljust(16, b"\0"), second[0].ljust(16, b"\0"),
            0, _ANY_COOKIE, _ANY_COOKIE,
        )  # fmt: skip
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST_FLAG, 1, 0) + body)
        answer = self._socket.recv(4096)
        _, message, _, _, _ = _HEADER.unpack_from(answer)
        if message == _ERROR:
            code = -int.from_bytes(answer[_HEADER.size : _HEADER.size + 4], "little", signed=True)
            if code == ENOENT:
                return None
            raise OSError(code, "sock_diag")
        low, high = _COOKIE.unpack_from(answer, _ANSWER_COOKIE_AT)
        return int(high << 32 | low)

    def has_name(self, inode: int, cookie: int, name: bytes) -> bool:
        """Tell whether the Unix socket `cookie` lives and is bound to the abstract `name` (with its NUL).

        Arguments:
            inode: of the socket itself.
            cookie: of the same socket.
            name: that it should have.

        Raises:
            OSError: the kernel does not tell.

        """
        try:
            data = self._ask_unix(inode, _SHOW_NAME)
        except FileNotFoundError:
            return False
        low, high = _COOKIE.unpack_from(data, _UNIX_COOKIE_AT)
        same = (high << 32 | low) == cookie
        return same and _attribute(data[_UNIX_COOKIE_AT + _COOKIE.size :], _NAME_ATTRIBUTE) == name

    def place(self, inode: int) -> tuple[int, int] | None:
        """Return (device as the kernel numbers it, low 32 bits of the inode) of the file a Unix socket is bound to.

        Arguments:
            inode: of the socket itself.

        Raises:
            OSError: the kernel does not tell.

        """
        data = self._ask_unix(inode, _SHOW_FILE)
        file = _attribute(data[_UNIX_COOKIE_AT + _COOKIE.size :], _FILE_ATTRIBUTE)
        if len(file) != 8:
            return None
        return int.from_bytes(file[4:], "little"), int.from_bytes(file[:4], "little")

    def _ask_unix(self, inode: int, show: int) -> bytes:
        """Return what the kernel says of one Unix socket, never of all: others may have made very many."""
        body = _ASK_UNIX.pack(AF_UNIX, 0, 0, _ALL_STATES, inode & 0xFFFFFFFF, show, _ANY_COOKIE, _ANY_COOKIE)
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST_FLAG, 3, 0) + body)
        answer = self._socket.recv(1 << 16)  # it is there when send is back
        length, message, _, _, _ = _HEADER.unpack_from(answer)
        data = answer[_HEADER.size : length]
        if message == _ERROR:
            raise OSError(-int.from_bytes(data[:4], "little", signed=True), "sock_diag")
        return data

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Inside:
    """The sockets of the sandbox that were seen by the supervisor: bound, listening, connected or sent from."""

    def __init__(self) -> None:
        self._known: dict[int, None] = {}
        self._names: dict[bytes, tuple[int, int]] = {}  # abstract name -> (inode, cookie) of the socket that got it
        self._diagnosis: SocketDiagnosis | None = None

    def add(self, cookie: int) -> None:
        """Remember a socket."""
        known = self._known
        known.pop(cookie, None)
        known[cookie] = None
        if len(known) > _KNOWN_MAX:
            del known[next(iter(known))]

    def __contains__(self, cookie: int) -> bool:
        return cookie in self._known

    def owner(self, protocol: str, target: Inet, source: Inet | None = None) -> int | None:
        """Return the cookie of the socket behind `target`, or None: nobody. `source` is the sender's own address.

        Raises:
            OSError: the kernel does not tell.

        """
        address = canonical_address(target.address)
        own = canonical_address(source.address) if source is not None else b""
        if source is None or len(own) != len(address) or not any(source.address[-4:]):
            own = _LOOPBACK if len(address) == 4 else bytes(15) + b"\1"
        port = source.port if source is not None else 0
        return self._diagnose().owner(protocol, (own, port), (address, target.port))

    def note_abstract(self, pinned: Socket) -> None:
        """Remember the abstract name of a Unix socket of the sandbox, if it has one now."""
        name = sockets.name_of(pinned.fd)[2:]
        if name[:1] == b"\0":
            self._names.pop(name, None)
            self._names[name] = (os.fstat(pinned.fd).st_ino, pinned.cookie)
            if len(self._names) > _NAMES_MAX:
                del self._names[next(iter(self._names))]

    def abstract_owner(self, name: bytes) -> int | None:
        """Return the cookie of the sandbox's own socket with an abstract name, or None; raises OSError as `owner`.

        Only a socket that was seen to get the name is asked about. Listing all there are, to find one, would take as
        long as a program likes to make it (NOT-14).
        """
        known = self._names.get(name)
        if known is None:
            return None
        if known[1] in self._known and self._diagnose().has_name(*known, name):
            return known[1]
        del self._names[name]
        return None

    def place(self, inode: int) -> tuple[int, int] | None:
        """Return where a Unix socket is bound, as `SocketDiagnosis.place`."""
        return self._diagnose().place(inode)

    def _diagnose(self) -> SocketDiagnosis:
        if self._diagnosis is None:
            self._diagnosis = SocketDiagnosis()
        return self._diagnosis

    def close(self) -> None:
        """Free what is held."""
        if self._diagnosis is not None:
            self._diagnosis.close()
            self._diagnosis = None
        self._known.clear()
        self._names.clear()


def _attribute(data: bytes, wanted: int) -> bytes:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        if kind == wanted:
            return data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return b""
