"""Process groups among the members of a restored tree."""

from __future__ import annotations

from collections.abc import Sequence

from sandlock_checkpoint.model import ProcessInfo
from sandlock_checkpoint.restore.target import Target

__all__ = ["join_groups"]


def join_groups(targets: Sequence[Target], processes: Sequence[ProcessInfo]) -> None:
    """Put every process into the group that it was in, where the group's leader is one of them.

    A group that somebody outside led is not known here; its members stay in the group of whoever restores.
    """
    leaders = {process.pid: target for process, target in zip(processes, targets, strict=True)}
    for target, process in zip(targets, processes, strict=True):
        if process.process_group == process.pid and process.session != process.pid:
            target.call("setpgid", 0, 0)
    for target, process in zip(targets, processes, strict=True):
        leader = leaders.get(process.process_group)
        if leader is not None and leader is not target:
            target.call("setpgid", 0, leader.own_pid)
