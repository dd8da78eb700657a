"""From the C functions' "value or -errno" to values and exceptions: the one place that knows -errno."""

from __future__ import annotations

from errno import EINTR

from sandlock_sys.errors import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_sys._ffi import Argument

__all__ = ["check", "refusal", "restarting"]


def check(call: str, result: int, detail: str = "") -> int:
    """Return `result`, or raise `SyscallError` when it is a negated errno.

    Arguments:
        call: name of the system call, for the exception.
        result: what the C function returned: a value, or -errno.
        detail: what the call was about, for the exception.

    """
    if result < 0:
        raise SyscallError(call, -result, detail)
    return result


def refusal(result: int) -> int:
    """Return the errno in `result`, or 0 when the call succeeded; for callers to whom an errno is an answer."""
    return -result if result < 0 else 0


def restarting(function: Callable[..., int], *arguments: Argument) -> int:
    """Call `function` until it answers something other than EINTR, and return that answer.

    Between two tries the interpreter runs the handlers of the signals that arrived, so Ctrl-C still raises (PEP 475).
    """
    while True:
        result = function(*arguments)
        if result != -EINTR:
            return result
