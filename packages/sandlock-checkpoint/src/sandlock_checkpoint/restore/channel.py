"""The socket by which the restorer hands its own descriptors to the processes that it makes."""

from __future__ import annotations

import array
import socket
import struct
from dataclasses import dataclass

from sandlock_checkpoint.errors import RestoreError
from sandlock_checkpoint.restore.target import Target

__all__ = ["Channel"]


@dataclass
class Channel:
    """A pair of connected sockets.

    Attributes:
        own: our end.
        number: that of the other end, in the first process and in those that it makes.

    """

    own: socket.socket
    number: int

    def receive(self, target: Target, fd: int) -> int:
        """Send one of our descriptors into a process; return its number there, close-on-exec."""
        self.own.sendmsg([b"f"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        data = target.put(bytes(8), 512)
        control = target.put(bytes(32), 576)
        vector = target.put(struct.pack("<QQ", data, 1), 640)
        header = struct.pack("<QIxxxxQQQQIxxxx", 0, 0, vector, 1, control, 32, 0)  # struct user_msghdr
        target.call("recvmsg", self.number, target.put(header, 704), socket.MSG_CMSG_CLOEXEC)
        length, level, kind, number = struct.unpack("<QiiI", target.get(20, 576))
        if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS) or length < 20:
            raise RestoreError("channel", "no descriptor came through it")
        return int(number)
