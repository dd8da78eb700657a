"""Signals that would break notified calls: the handlers of SIGCHLD restart what they interrupt.

A notification that the supervisor has not taken yet is interrupted by any signal with a handler, and without
SA_RESTART the call then fails with EINTR: also one that never does so elsewhere, fork above all. dash handles SIGCHLD
without SA_RESTART, its children end while it forks the next ones, and "Cannot fork" ends it. However fast the
supervisor takes notifications, there is such a moment. So the flag is set, for this one signal, as the handler is
installed. What changes: a read, an accept, a wait that a child's end used to break off goes on. Sleeping, polling and
selecting end as before; they never restart.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from sandlock_notif import memory
from sandlock_notif.dispatch import HandlerTable, Trap
from sandlock_policy.seccomp.rules import not_one_of, one_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_notif.request import Request

__all__ = ["ChildSignals", "decide_flags"]

_SIGCHLD = 17  # asm-generic/signal.h, and asm/signal.h of x86
_SA_RESTART = 0x1000_0000  # asm-generic/signal-defs.h
_HANDLERS = (0, 1)  # SIG_DFL, SIG_IGN: these interrupt nothing
_ACTION = Struct("=QQ")  # the head of the kernel's struct sigaction: handler, flags


def decide_flags(handler: int, flags: int) -> int | None:
    """Return the flags that the action must get, or None when they may stay."""
    return None if handler in _HANDLERS or flags & _SA_RESTART else flags | _SA_RESTART


class ChildSignals(HandlerTable):
    """Makes the handlers of SIGCHLD restart interrupted calls. Wanted where fork, or much else, is notified."""

    name = "signals"

    def traps(self) -> Sequence[Trap]:
        """Only the installation of an action for SIGCHLD."""
        conditions = (one_of(0, _SIGCHLD), not_one_of(1, 0, wide=True))
        reason = "a child's end must not make a notified call fail with EINTR"
        return (Trap("rt_sigaction", self._install, reason, conditions, "memory"),)

    def _install(self, request: Request) -> None:
        # Nothing is decided here that the program could gain by changing it again: the kernel reads what it wants.
        handler, flags = _ACTION.unpack(memory.read(request, request.args[1], _ACTION.size))
        wanted = decide_flags(handler, flags)
        if wanted is not None:
            memory.write(request, request.args[1] + 8, wanted.to_bytes(8, "little"))
