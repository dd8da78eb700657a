"""A bound on the cpu time of a whole tree: it is stopped as long as it is ahead of its share.

The kernel's own way (cgroups) needs a delegation that an ordinary user rarely has. Stopping and continuing is coarse:
within one period the tree may use every core, and a program that asks for it sees the stops of its children.
"""

from __future__ import annotations

import os
import threading
import time

from sandlock_runtime.errors import NotRunningError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_runtime.life import Life

__all__ = ["throttle", "tree_cpu_s"]

_PERIOD_S = 0.05
_TICKS = os.sysconf("SC_CLK_TCK")


def throttle(life: Life, percent: int) -> None:
    """Keep the tree's cpu time at `percent` of one core, in a thread that ends with the life."""
    threading.Thread(target=_run, args=(life, percent / 100), name="sandlock-throttle", daemon=True).start()


def tree_cpu_s(root: int) -> float:
    """Return the cpu seconds that the descendants of process `root` have used, with the children they waited for."""
    total = _waited_s(root)
    todo = _children(root)
    while todo:
        pid = todo.pop()
        todo += _children(pid)
        try:
            # The cpu clock of another process: its number as clock_getcpuclockid(3) makes it, in nanoseconds.
            total += time.clock_gettime(~pid << 3 | 2) + _waited_s(pid)
        except OSError:
            continue  # it ended a moment ago; its time is in what its parent waited for
    return total


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:
        return found  # it ended
    return found


def _waited_s(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[13]) + int(fields[14])) / _TICKS  # cutime and cstime, proc_pid_stat(5)


def _run(life: Life, share: float) -> None:
    try:
        before = tree_cpu_s(life.guard_pid)
        while not life.wait(_PERIOD_S):
            now = tree_cpu_s(life.guard_pid)
            ahead_s = max(now - before, 0.0) - share * _PERIOD_S
            before = now
            if ahead_s > 0:
                life.hold_back()
                ended = life.wait(ahead_s / share)
                life.let_go()
                if ended:
                    return
    except NotRunningError:
        return  # it ended between two looks
