"""When to look at the memory of a tree, and whom to kill for it: the decisions of max_memory, without a kernel."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_notif.usage import Use

__all__ = ["SHARE", "SHORTEST_S", "data_limit", "decide_offender", "decide_period"]

SHARE = 100
"""At most one part in so many of the time goes into sampling, and of the time of a CPU: a supervisor that had to wait
for one does not look less often."""
SHORTEST_S = 0.001

_GROWTH = 2 << 30  # bytes per second that one CPU fills; measured 1-2 GiB/s in 4 KiB pages
_CPUS = min(os.cpu_count() or 1, 8)
_LONGEST_S = 0.1
_NOTABLE = 1 << 20  # a process that grew by less is not the one that grows
_ROOM = 1 << 30


def data_limit(max_memory: int) -> int:
    """Return the RLIMIT_DATA for each process: what it may map, writable and private, used or not, in bytes.

    Well above the limit, since stacks of threads and reservations count in full there. It bounds what a process can
    take at once while the supervisor has no CPU.
    """
    return max(2 * max_memory, max_memory + _ROOM)


def decide_period(distance: int, cost_s: float, share: int = SHARE) -> float:
    """Return after how many seconds to sample again.

    Arguments:
        distance: bytes to the limit.
        cost_s: seconds that a sample takes.
        share: sampling takes at most one part in so many of the time.

    """
    due = distance / (_GROWTH * _CPUS)
    return max(min(due, _LONGEST_S), SHORTEST_S, cost_s * share)


def decide_offender(uses: Sequence[Use], owner: int = 0) -> int | None:
    """Return the process to kill: the one that grew most, else `owner` of what grew, else the largest; None of none."""
    if not uses:
        return None
    growing = max(uses, key=lambda use: use.growth)
    if growing.growth >= _NOTABLE:
        return growing.pid
    if any(use.pid == owner for use in uses):
        return owner
    return max(uses, key=lambda use: use.now).pid
