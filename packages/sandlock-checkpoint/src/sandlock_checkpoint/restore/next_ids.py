"""Have the kernel give the ids that are wanted to what a confined process makes, in a pid namespace of its own.

A sandbox's filter refuses clone3(2), whose arguments it cannot see, and with it the one call that asks for an id. But
the ids of a namespace are given in turn, everybody in it stands still while it is restored, and whoever made it may
say from outside where the turn is.
"""

from __future__ import annotations

import os
from contextlib import suppress

from sandlock_sys.errors import SyscallError
from sandlock_sys.next_id import set_last_id

__all__ = ["NextIds"]


class NextIds:
    """Says which id is next in the namespace of one process, where that is not the restorer's own; to be closed.

    Arguments:
        pid: the process, as the restorer sees it.
        last: the id that the namespace gave last.

    """

    def __init__(self, pid: int, last: int) -> None:
        self._last = last
        self._pid_namespace, self._user_namespace = -1, -1
        with suppress(OSError):
            if not _is_ours(pid, "pid"):
                self._pid_namespace = _open(pid, "pid")
                if not _is_ours(pid, "user"):
                    self._user_namespace = _open(pid, "user")

    def close(self) -> None:
        """Close both namespaces; twice does no harm."""
        for fd in (self._pid_namespace, self._user_namespace):
            if fd >= 0:
                os.close(fd)
        self._pid_namespace = self._user_namespace = -1

    def ask_for(self, number: int) -> None:
        """Have `number` given next, where that can be done; who wants no other looks at what was given."""
        following, self._last = self._last + 1, number
        if self._pid_namespace < 0 or number == following:
            return
        user = self._user_namespace if self._user_namespace >= 0 else None
        try:
            set_last_id(user, self._pid_namespace, number - 1)
        except SyscallError:
            self.close()


def _is_ours(pid: int, kind: str) -> bool:
    return os.path.samefile(f"/proc/{pid}/ns/{kind}", f"/proc/self/ns/{kind}")


def _open(pid: int, kind: str) -> int:
    return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
