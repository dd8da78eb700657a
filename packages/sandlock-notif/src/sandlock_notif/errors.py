"""The errors of sandlock-notif, and the exceptions by which a handler answers."""

from __future__ import annotations

from errno import errorcode

from sandlock_arch.errors import SandlockError

__all__ = ["NotifError", "Refusal", "VanishedError"]


class NotifError(SandlockError):
    """Base of what this package raises to its caller."""


class Refusal(NotifError):  # noqa: N818  # an answer, not a fault
    """Raised by a handler: the call fails with `errno`, and is not run.

    Attributes:
        errno: positive.
        reason: for the event, or "".

    """

    def __init__(self, errno: int, reason: str = "") -> None:
        super().__init__(f"{errorcode.get(errno, errno)}{': ' if reason else ''}{reason}")
        self.errno = errno
        self.reason = reason


class VanishedError(NotifError):
    """Raised by a handler: the task no longer waits; it was killed, or left the call for a signal."""
