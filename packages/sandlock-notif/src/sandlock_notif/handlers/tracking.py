"""userfaultfd(2) for a checkpoint's tracker: one call, by one thread that stands still for it, and never the program's.

A tracker has the kernel note what a process writes, by a userfaultfd that only the process itself can make. The program
must not have one: it could hold its own faults, and code of the kernel that waits for them. So the call is denied to
everybody, and let through once when the tracker says that it has stopped a thread and makes the call there itself.

Why no call of the program's is taken for it:

* The thread is held by ptrace from before it is named until after it is forgotten, and so are all others that could
  name it; what it executes meanwhile is one instruction of the tracer's choosing. The arguments are numbers, in
  registers that nobody else can change: the kernel runs what was judged.
* A call that the thread had made before it was stopped has ended with the stop, and its notification with it: an answer
  to that reaches nobody, and the tracker's call is then refused, since one call is let through and no second.
* A thread by another number is refused, whatever it asks and whenever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EPERM
from typing import TYPE_CHECKING

from sandlock_notif.action import CONTINUE, Action
from sandlock_notif.dispatch import HandlerTable, Trap
from sandlock_notif.errors import Refusal
from sandlock_policy.seccomp.supervised import WATCHED

if TYPE_CHECKING:
    from sandlock_notif.request import Request

__all__ = ["TrackingTable"]

_NOBODY = -1


class TrackingTable(HandlerTable):
    """Denies userfaultfd(2), but for a thread that is named by who holds it."""

    name = "tracking"
    while_parked = False

    def __init__(self) -> None:
        self._named = _NOBODY

    def traps(self) -> Sequence[Trap]:
        """Return the one call; the filter asks about it only with the flags that a tracker gives."""
        return (Trap("userfaultfd", self._judge, "`trackable`: a checkpoint's tracker makes one", WATCHED.conditions),)

    @contextmanager
    def let_through(self, tid: int) -> Iterator[None]:
        """Let one call of this thread through; it is stopped by the caller, and runs nothing of its own meanwhile.

        Safety: the supervisor judges in a thread of its own. Both only ever clear the name; a call that it lets
        through when this has ended already is one that the caller has given up, and must not let live.
        """
        self._named = tid
        try:
            yield
        finally:
            self._named = _NOBODY

    def _judge(self, request: Request) -> Action:
        if request.tid != self._named:
            raise Refusal(EPERM, "only a checkpoint's tracker may have a userfaultfd")
        self._named = _NOBODY
        return CONTINUE
