"""Pidfds: a process by file descriptor, which never comes to mean another one (pidfd_open(2))."""

from __future__ import annotations

from select import POLLIN, poll

from sandlock_sys._buffers import NULL
from sandlock_sys._call import check
from sandlock_sys._ffi import lib

__all__ = ["getfd", "open_pidfd", "send_signal", "wait"]


def open_pidfd(pid: int, flags: int = 0) -> int:
    """Return a pidfd of `pid`, close-on-exec, that the caller owns (5.3).

    Arguments:
        pid: a process id, or with PIDFD_THREAD in `flags` (6.9) any thread's.
        flags: PIDFD_NONBLOCK (5.10), PIDFD_THREAD (6.9).

    Raises:
        SyscallError: ESRCH when there is none; EINVAL for an unknown flag, and without PIDFD_THREAD for a thread
            that is not the leader (ENOENT since 6.15).

    """
    return check("pidfd_open", lib.sl_pidfd_open(pid, flags), f"pid {pid}")


def getfd(pidfd: int, remote: int) -> int:
    """Return a copy, close-on-exec and the caller's, of fd `remote` of the process: the same open file (5.6).

    Raises:
        SyscallError: EBADF when the process has no such fd, EPERM without PTRACE_MODE_ATTACH, ESRCH when it is gone.

    """
    return check("pidfd_getfd", lib.sl_pidfd_getfd(pidfd, remote, 0), f"pidfd {pidfd}, fd {remote}")


def send_signal(pidfd: int, signal: int, flags: int = 0) -> None:
    """Send `signal` to the process, or with a PIDFD_SIGNAL_* flag (6.9) to its thread or process group; 0 only asks.

    Raises:
        SyscallError: ESRCH when it is gone (reaped), EPERM.

    """
    result = lib.sl_pidfd_send_signal(pidfd, signal, NULL, flags)
    check("pidfd_send_signal", result, f"pidfd {pidfd}, signal {signal}")


def wait(pidfd: int, timeout_s: float | None = None) -> bool:
    """Wait until the process has ended, at most `timeout_s` seconds; tell whether it has.

    It is not reaped: its parent still gets the status.
    """
    poller = poll()
    poller.register(pidfd, POLLIN)
    return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))
