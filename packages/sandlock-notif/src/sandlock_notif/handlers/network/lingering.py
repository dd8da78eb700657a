"""setsockopt(2) of SO_LINGER: closing never waits.

Whoever closes the last copy of a connected socket waits as long as SO_LINGER says, and that can be the supervisor: it
holds a copy while it serves a call, and the program may close all others meanwhile. So a time to linger is accepted and
not set; what is unsent goes out all the same, without anybody waiting for it. Ending a connection at once, {1, 0}, is
the kernel's.
"""

from __future__ import annotations

from errno import EINVAL
from struct import Struct
from typing import TYPE_CHECKING, Final

from sandlock_notif import memory
from sandlock_notif.action import Value
from sandlock_notif.errors import Refusal
from sandlock_policy.seccomp.rules import one_of
from sandlock_sys import sockets

if TYPE_CHECKING:
    from sandlock_notif.action import Action
    from sandlock_notif.request import Request
    from sandlock_sys.sockets import Socket

__all__ = ["LINGER", "set_linger"]

_SOL_SOCKET: Final = 1  # asm-generic/socket.h
_SO_LINGER: Final = 13  # asm-generic/socket.h
_LINGER = Struct("=ii")  # struct linger: on or off, seconds; linux/socket.h

LINGER: Final = (one_of(1, _SOL_SOCKET), one_of(2, _SO_LINGER))
"""Conditions of setsockopt(2) for this option."""


def set_linger(request: Request, pinned: Socket) -> Action:
    """Set SO_LINGER of `pinned`, but for a time.

    Raises:
        Refusal: EINVAL, EFAULT, as the kernel answers.

    """
    if request.int_arg(4) < _LINGER.size:
        raise Refusal(EINVAL)
    lingers, seconds = _LINGER.unpack(memory.read(request, request.args[3], _LINGER.size))
    sockets.set_option(pinned.fd, _SOL_SOCKET, _SO_LINGER, _LINGER.pack(bool(lingers and not seconds), 0))
    return Value(0)
