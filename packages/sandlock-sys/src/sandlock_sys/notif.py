"""Seccomp user notification: a supervisor receives and answers another task's system calls (seccomp_unotify(2)).

The listener comes from `seccomp.set_mode_filter` with SECCOMP_FILTER_FLAG_NEW_LISTENER.
Every function may run in any thread; none of them keeps state.
"""

from __future__ import annotations

import enum
from errno import EINTR, ENOENT, EPIPE
from os import O_CLOEXEC
from struct import Struct

from sandlock_sys._buffers import writable
from sandlock_sys._call import check, refusal, restarting
from sandlock_sys._ffi import lib
from sandlock_sys.errors import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_sys._ffi import CData
    from sandlock_sys.shortcut import Shortcut

__all__ = ["Exchange", "Received", "Request", "add_fd", "id_valid", "receive", "send", "set_flags"]

_REQUEST = Struct("=QIIiIQ6Q")  # struct seccomp_notif, linux/seccomp.h, 5.0
_FIELDS = _REQUEST.unpack_from
_SETFD = 1  # SECCOMP_ADDFD_FLAG_SETFD, linux/seccomp.h, 5.9
_SEND = 2  # SECCOMP_ADDFD_FLAG_SEND, linux/seccomp.h, 5.14


class Received(enum.Enum):
    """What a `receive` came back with."""

    NOTIFICATION = enum.auto()
    """The buffer holds a notification that waits for its answer."""
    GONE = enum.auto()
    """The task died, or left the call for a signal, before it could be received; or no task has the filter any more,
    which poll(2) tells by POLLHUP. Go on."""
    INTERRUPTED = enum.auto()
    """A signal came while waiting. Go on."""


class Request:
    """A buffer for one notification at a time, made once and given to every `receive`.

    The numbers are read from the buffer when they are asked for, so they change with the next `receive`.
    """

    __slots__ = ("_memory", "_pointer")

    def __init__(self) -> None:
        self._memory = bytearray(_REQUEST.size)
        self._pointer = writable(self._memory)

    def fields(self) -> tuple[int, ...]:
        """Return id, tid, flags, syscall number, AUDIT_ARCH_*, instruction pointer and the six arguments, in order.

        The thread id is in the supervisor's pid namespace, and 0 for a task outside it. Arguments are unsigned 64-bit.
        """
        return _REQUEST.unpack_from(self._memory)

    @property
    def id(self) -> int:
        """The number that the answer must carry."""
        return self.fields()[0]

    @property
    def tid(self) -> int:
        """The calling thread (not the process)."""
        return self.fields()[1]

    @property
    def nr(self) -> int:
        """The system call's number on `arch`."""
        return self.fields()[3]

    @property
    def arch(self) -> int:
        """AUDIT_ARCH_* of the ABI that the call came in by."""
        return self.fields()[4]

    @property
    def instruction_pointer(self) -> int:
        """The address after the system call instruction."""
        return self.fields()[5]

    @property
    def args(self) -> tuple[int, ...]:
        """The six arguments, unsigned 64-bit."""
        return self.fields()[6:]


def receive(listener: int, into: Request) -> Received:
    """Wait for a notification and put it `into` the buffer; with poll(2) readable, this does not wait.

    Raises:
        SyscallError: anything but ENOENT and EINTR, which are answers.

    """
    error = refusal(lib.sl_notif_receive(listener, into._pointer))
    if not error:
        return Received.NOTIFICATION
    if error == ENOENT:
        return Received.GONE
    if error == EINTR:
        return Received.INTERRUPTED
    raise SyscallError("ioctl SECCOMP_IOCTL_NOTIF_RECV", error, f"fd {listener}")


class Exchange:
    """Answers and takes requests of one listener in one step out of the interpreter each; for one thread at a time.

    Attributes:
        hung_up: no task has the filter any more, and none ever will.

    """

    __slots__ = ("_exchange", "_listener", "_memory", "_next", "_pointer", "_source", "hung_up")

    def __init__(self, listener: int) -> None:
        self._listener = listener
        self._source: int | CData = listener
        self._next: Callable[..., int] = lib.sl_notif_next
        self._exchange: Callable[..., int] = lib.sl_notif_exchange
        self._memory = bytearray(_REQUEST.size)
        self._pointer = writable(self._memory)
        self.hung_up = False

    def use(self, shortcut: Shortcut | None) -> None:
        """Serve what `shortcut` can serve from now on, without returning it; None: nothing any more."""
        if shortcut is None:
            self._source, self._next, self._exchange = self._listener, lib.sl_notif_next, lib.sl_notif_exchange
        else:
            self._source, self._next = shortcut.memory, lib.sl_shortcut_next
            self._exchange = lib.sl_shortcut_exchange

    def take(self, wait_ns: int = 0) -> tuple[int, ...] | None:
        """Return the next notification as `Request.fields` does, waiting for it at most `wait_ns` nanoseconds.

        None when there is none, when a signal came, or when the task was gone.

        Raises:
            SyscallError: the kernel refused.

        """
        result = self._next(self._source, self._pointer, wait_ns)
        return _FIELDS(self._memory) if result == 1 else self._nothing(result)

    def answer_and_take(
        self, notification: int, value: int, error: int, flags: int, wait_ns: int
    ) -> tuple[int, ...] | None:
        """Answer as `send` does, and return the next notification as `take` does.

        That the task no longer waits for the answer is not told.

        Raises:
            SyscallError: as both; after a refused answer nothing was taken.

        """
        result = self._exchange(self._source, notification, value, -error, flags, self._pointer, wait_ns)
        return _FIELDS(self._memory) if result == 1 else self._nothing(result)

    def _nothing(self, result: int) -> tuple[int, ...] | None:
        if result == -EPIPE:
            self.hung_up = True
        elif result < 0:
            raise SyscallError("ioctl SECCOMP_IOCTL_NOTIF_RECV", -result, f"fd {self._listener}")
        return None


def send(listener: int, notification: int, value: int = 0, error: int = 0, flags: int = 0) -> bool:
    """Answer a notification; return False when its task no longer waits (killed, or gone for a signal).

    Arguments:
        listener: the listener's fd.
        notification: the id of the request.
        value: what the call returns, when `error` is 0.
        error: a positive errno that the call fails with, or 0.
        flags: SECCOMP_USER_NOTIF_FLAG_CONTINUE lets the kernel run the call itself (5.5); `value` and `error` must
            be 0 then.

    Raises:
        SyscallError: EINPROGRESS for a second answer, EINVAL for bad flags.

    """
    # The kernel's error is negative in the structure; a caller speaks of EPERM, not of -EPERM.
    result = restarting(lib.sl_notif_send, listener, notification, value, -error, flags)
    if result == -ENOENT:
        return False
    check("ioctl SECCOMP_IOCTL_NOTIF_SEND", result, f"fd {listener}, id {notification:#x}")
    return True


def id_valid(listener: int, notification: int) -> bool:
    """Tell whether the task still waits in this notification.

    Whatever was opened or read by the request's thread id belongs to that task only if this is true afterwards: its
    id cannot have been reused while it waits.
    """
    result = restarting(lib.sl_notif_id_valid, listener, notification)
    if result == -ENOENT:
        return False
    check("ioctl SECCOMP_IOCTL_NOTIF_ID_VALID", result, f"fd {listener}, id {notification:#x}")
    return True


def add_fd(
    listener: int,
    notification: int,
    source: int,
    *,
    target: int | None = None,
    close_on_exec: bool = False,
    answer: bool = False,
) -> int | None:
    """Install a copy of fd `source` in the waiting task; return its number there, or None when the task is gone.

    Arguments:
        listener: the listener's fd.
        notification: the id of the request.
        source: the caller's fd to copy; it stays the caller's.
        target: the number it must get, closing what has it now; None: the lowest free one.
        close_on_exec: mark the copy close-on-exec.
        answer: answer the notification with the new number in the same step (5.14).

    Raises:
        SyscallError: EMFILE when the task's limit is reached, EBADF for a `target` above it, EBUSY when `answer`
            meets another add_fd that is not done, EINPROGRESS when the notification has been answered. With `answer`,
            a failure leaves the notification waiting: answer it with an errno.

    """
    flags = (_SETFD if target is not None else 0) | (_SEND if answer else 0)
    result = lib.sl_notif_add_fd(listener, notification, flags, source, target or 0, O_CLOEXEC if close_on_exec else 0)
    if result == -ENOENT:
        return None
    where = "the lowest free fd" if target is None else f"fd {target}"
    return check("ioctl SECCOMP_IOCTL_NOTIF_ADDFD", result, f"fd {source} to {where}, id {notification:#x}")


def set_flags(listener: int, flags: int) -> None:
    """Set SECCOMP_USER_NOTIF_FD_* flags of the listener (6.6).

    SYNC_WAKE_UP makes the supervisor and the task take turns on one CPU: good where both do nothing but wait for
    each other, bad with several tasks.

    Raises:
        SyscallError: EINVAL for a flag, or an ioctl, that this kernel does not know.

    """
    check("ioctl SECCOMP_IOCTL_NOTIF_SET_FLAGS", restarting(lib.sl_notif_set_flags, listener, flags), f"{flags:#x}")
