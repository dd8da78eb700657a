"""The listener of one sandbox: notifications in, answers out."""

from __future__ import annotations

import os
from errno import EINVAL, EPERM
from typing import TYPE_CHECKING, Self

from sandlock_sys import notif
from sandlock_sys.constants.seccomp import ListenerFlag, ResponseFlag
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["CONTINUE_FLAG", "Listener"]

CONTINUE_FLAG = int(ResponseFlag.CONTINUE)


class Listener:
    """Owns a notification listener's fd. Nothing here waits longer than it is told to.

    Attributes:
        synchronous: the kernel hands the CPU over with each answer (6.6). Asked for, and known to have worked.

    """

    def __init__(self, fd: int, *, synchronous: bool = True) -> None:
        self._fd = fd
        self.synchronous = False
        if synchronous:
            try:
                notif.set_flags(fd, ListenerFlag.SYNC_WAKE_UP)
                self.synchronous = True
            except SyscallError as error:
                if error.errno != EINVAL:  # before 6.6
                    raise

    def fileno(self) -> int:
        """The listener's fd, borrowed; -1 once closed."""
        return self._fd

    def answer(self, notification: int, value: int = 0, error: int = 0) -> bool:
        """Answer with a value, or a positive errno; False when the task no longer waits."""
        return notif.send(self._fd, notification, value, error)

    def let_continue(self, notification: int) -> bool:
        """Let the kernel run the call; False when the task no longer waits."""
        return notif.send(self._fd, notification, flags=CONTINUE_FLAG)

    def inject(self, notification: int, fd: int, *, target: int | None, close_on_exec: bool) -> int | None:
        """Answer with a copy of `fd`; return its number there, or None when the task no longer waits.

        When the kernel refuses (EMFILE, EBADF), the call fails with that errno: it is never run instead.
        """
        try:
            return notif.add_fd(
                self._fd, notification, fd, target=target, close_on_exec=close_on_exec, answer=True
            )  # fmt: skip
        except SyscallError as error:
            self.answer(notification, error=error.errno or EPERM)
            return None

    def place(
        self, notification: int, fd: int, *, target: int | None = None, close_on_exec: bool = False
    ) -> int | None:
        """Put a copy of `fd` into the task without answering; return its number, or None when it no longer waits.

        Raises:
            SyscallError: EMFILE, EBADF.

        """
        return notif.add_fd(self._fd, notification, fd, target=target, close_on_exec=close_on_exec)

    def valid(self, notification: int) -> bool:
        """Whether the task still waits in this notification."""
        return notif.id_valid(self._fd, notification)

    def close(self) -> None:
        """Close the fd: every waiting call, and every later one that the filter notifies, fails with ENOSYS."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
