"""What a process is called on a proc file system: a sandbox with a PID namespace has a /proc, and numbers, of its own.

The kernel tells us host numbers; a path of the child, and the links `self` and `thread-self`, speak of its own.
"""

from __future__ import annotations

import os
from errno import ENOENT
from typing import TYPE_CHECKING

from sandlock_notif.errors import Refusal
from sandlock_sys.proc import read_status

if TYPE_CHECKING:
    from sandlock_notif.processes import Processes
    from sandlock_notif.request import Request

__all__ = ["Numbering"]

_INIT = 1  # first process of a PID namespace, ours and no part of the sandbox


class Numbering:
    """Translates between processes and their numbers on any proc file system that a child reaches."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._host = os.stat("/proc").st_dev

    def leader(self, request: Request, device: int) -> int:
        """Return the caller's process as the /proc on `device` has it.

        Raises:
            Refusal: ENOENT when it is gone.

        """
        pid = self._processes.of(request).pid
        return pid if device == self._host else _innermost(pid)

    def thread_path(self, request: Request, device: int) -> bytes:
        """Return what `thread-self` says to the caller there: PID/task/TID. Raises as `leader`."""
        tid = request.tid if device == self._host else _innermost(request.tid)
        return b"%d/task/%d" % (self.leader(request, device), tid)

    def owns(self, request: Request, directory: int, number: int) -> bool:
        """Whether /proc/NUMBER, open as `directory`, is that of a process of the sandbox.

        On the host's /proc the index knows. Elsewhere a process is ours if it lives in the PID namespace that was made
        for the sandbox, and is not the one that keeps this namespace.
        """
        if os.fstat(directory).st_dev == self._host:
            return self._processes.contains(number)
        try:
            caller = os.stat(f"/proc/{request.tid}/ns/pid").st_ino
            found = os.stat(b"ns/pid", dir_fd=directory).st_ino
            own = os.stat("/proc/self/ns/pid").st_ino
        except OSError:  # it has ended, or may not be looked at
            return False
        if found != caller:  # a number of somebody else's namespace: the sandbox may have a process that is called so
            return False
        return self._processes.contains(number) if caller == own else number != _INIT


def _innermost(pid: int) -> int:
    try:
        numbers = read_status(pid).ns_pid
    except (OSError, ValueError) as error:
        raise Refusal(ENOENT) from error
    return pid if not numbers else numbers[-1]
