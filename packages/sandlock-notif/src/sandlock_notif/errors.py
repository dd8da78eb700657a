"""The errors of sandlock-notif, and the exceptions by which a handler answers."""

from __future__ import annotations

from errno import errorcode

from sandlock_arch.errors import SandlockError

__all__ = ["NotifError", "Refusal", "VanishedError", "contained", "shown"]


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


def contained(error: BaseException) -> Exception:
    """Return what a caller's function raised as an error that can be raised in the loop, and told.

    SystemExit and KeyboardInterrupt would end the loop, the cancellation of somebody else leaves a call unanswered, and
    an error may have no text.
    """
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001  # of the caller's making
        return RuntimeError(f"{type(error).__name__}, which has no text")
    if isinstance(error, Exception) and not isinstance(error, StopIteration):  # which a future refuses
        return error
    return RuntimeError(f"{type(error).__name__}: {text}")


def shown(value: object) -> str:
    """Return the text of what a caller's function returned, or its type's name where that cannot be told."""
    try:
        return repr(value)
    except BaseException:  # noqa: BLE001  # of the caller's making
        return f"a {type(value).__name__}"
