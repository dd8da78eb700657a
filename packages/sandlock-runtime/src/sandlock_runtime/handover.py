"""How the listener of a parked child comes to the host: taken with pidfd_getfd(2), or passed where that is refused.

Docker's default seccomp profile refuses pidfd_getfd to containers without CAP_SYS_PTRACE. What else needs the call,
copies of a program's sockets and directories above all, is not served there (`features.py`).
"""

from __future__ import annotations

import os

from sandlock_sys import pidfd
from sandlock_sys.errors import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from sandlock_sys.spawn import Spawned, SpawnRequest

__all__ = ["Relay", "take_listener", "takes_fds"]

_MOST_PASSED = 2  # the listener, and the file that LIVE_HOST names
_PATIENCE_S = 10.0  # it was sent before the child parked
_takes: bool | None = None


def takes_fds() -> bool:
    """Whether this process may copy fds of others; tried once, on a fd of its own, which only a filter refuses."""
    global _takes  # noqa: PLW0603  # one fact about what surrounds this process
    if _takes is None:
        own = pidfd.open_pidfd(os.getpid())
        try:
            os.close(pidfd.getfd(own, own))
            _takes = True
        except SyscallError:
            _takes = False
        finally:
            os.close(own)
    return _takes


def take_listener(spawned: Spawned) -> tuple[int, int]:
    """Copy the listener of a parked child, and what its LIVE_HOST names or -1; the caller owns both."""
    child = pidfd.open_pidfd(spawned.pid)
    try:
        listener = pidfd.getfd(child, spawned.listener)
        try:
            return listener, pidfd.getfd(child, spawned.live) if spawned.live >= 0 else -1
        except SyscallError:
            os.close(listener)
            raise
    finally:
        os.close(child)


class Relay:
    """A socket pair for one launch: the child's end goes into the request, the other waits for what is passed."""

    def __init__(self, request: SpawnRequest) -> None:
        import socket  # lazy: where fds can be taken, most runs need none

        self._host: socket.socket
        self._host, self._child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._host.settimeout(_PATIENCE_S)
        request.relay = self._child.fileno()

    def take(self) -> tuple[int, int]:
        """Receive the listener, and what LIVE_HOST names or -1, of a child that has parked; closes both ends.

        Raises:
            SyscallError: nothing was passed.

        """
        import socket  # loaded already

        with self._host, self._child:
            self._child.close()  # so that a child that passed nothing is the end of the stream, not a wait
            _, fds, _, _ = socket.recv_fds(self._host, 1, _MOST_PASSED)
        if not fds:
            raise SyscallError("recvmsg", 0, "the child passed no listener")
        for fd in fds:
            os.set_inheritable(fd, False)  # a positional of os's
        return fds[0], fds[1] if len(fds) > 1 else -1

    def close(self) -> None:
        """Close both ends; twice is fine."""
        self._host.close()
        self._child.close()
