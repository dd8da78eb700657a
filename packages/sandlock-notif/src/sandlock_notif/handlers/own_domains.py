"""Landlock domains that a program makes of its own: refused where calls are made on its behalf.

What a deputy or the supervisor does for a child is held by the sandbox's domain, never by one that the child entered
later: a program that confined itself would be told that it is, and could do by served calls all that it gave up. So it
is told what a kernel without Landlock says, and decides for itself whether to go on (landlock(7), "Kernel support").
"""

from __future__ import annotations

from errno import EOPNOTSUPP
from typing import TYPE_CHECKING

from sandlock_notif.action import Action, Errno
from sandlock_notif.dispatch import Trap

if TYPE_CHECKING:
    from sandlock_notif.request import Request

__all__ = ["own_domain_traps"]

_CALLS = ("landlock_create_ruleset", "landlock_restrict_self")  # the second: a ruleset's fd may come from outside
_WHY = "calls made on behalf of the program would not be held by a Landlock domain of its own"
_DISABLED = Errno(EOPNOTSUPP, _WHY)


def own_domain_traps() -> list[Trap]:
    """Return what a domain that makes calls for the child has to trap, so that no promise of Landlock's is broken."""
    return [Trap(call, _refuse, _WHY) for call in _CALLS]


def _refuse(_: Request) -> Action:
    return _DISABLED
