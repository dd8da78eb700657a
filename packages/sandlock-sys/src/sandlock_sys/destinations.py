"""Where the sockets of one sandbox may connect and send to for good, for a `Shortcut` to serve.

    known = Destinations()
    shortcut.reach(known)
    known.add(name, packed, domain=AF_INET)                 # every TCP socket of that domain may connect there
    known.add(name, packed, domain=AF_INET, cookie=cookie)  # this datagram socket may send there

`name` is what the program writes, compared byte by byte, and `packed` is what the kernel is given instead. There is
room for some; what is not known, or no more, is asked about. So is everything that would wait.
"""

from __future__ import annotations

from sandlock_sys._buffers import readable
from sandlock_sys._ffi import ffi, lib

__all__ = ["Destinations"]


class Destinations:
    """Known destinations; for the thread that takes the notifications, while it takes none.

    Attributes:
        memory: what C works with.

    """

    __slots__ = ("memory",)

    def __init__(self) -> None:
        self.memory = ffi.new("struct sl_destinations *")

    def add(self, name: bytes, packed: bytes, *, domain: int, cookie: int = 0) -> None:
        """Let a socket get from `name` to `packed` without being asked about; addresses that are too long are not kept.

        Arguments:
            name: the socket address as the program writes it, whole.
            packed: as the kernel is to be given it.
            domain: SO_DOMAIN of the sockets that may connect.
            cookie: SO_COOKIE of the one datagram socket that may send; 0: it is about TCP sockets that connect.

        """
        lib.sl_destinations_add(
            self.memory, cookie, domain, readable(name), len(name), readable(packed), len(packed)
        )  # fmt: skip

    def clear(self) -> None:
        """Forget them all."""
        lib.sl_destinations_clear(self.memory)

    def close(self) -> None:
        """Close the fds of threads that were kept; it can be used again."""
        lib.sl_destinations_close(self.memory)
