"""What a launch executes instead of the command, when that is not started but restored."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_cow import Branch
    from sandlock_policy import Plan

__all__ = ["Instead"]


class Instead:
    """The stub that a restore begins with, in a sandbox that is otherwise the command's.

    Arguments:
        program: fd of it.
        channel: fd through which it gets the open files of the restorer.
        cow: the directory with the snapshot of the copy-on-write branch, or None.
        denied: paths on the host that the policy denies; the snapshot may not change them.

    Attributes:
        candidates: what is executed.
        keep: fds that stay open in it, in order.

    """

    def __init__(self, program: int, channel: int, cow: str | None, denied: Sequence[str] = ()) -> None:
        # A memfd lies on no file system that a rule could be for: Landlock lets it be executed.
        self.candidates = [b"/proc/self/fd/%d" % program]
        self.keep = sorted([program, channel])
        self._cow = cow
        self._denied = denied

    def adapt(self, plan: Plan) -> Plan:
        """Return the plan with the one call that only a restore needs."""
        options = plan.filter.__replace__(own_layout=True)  # type: ignore[attr-defined]  # dataclasses have it from 3.13
        adapted: Plan = plan.__replace__(filter=options)  # type: ignore[attr-defined]  # as above
        return adapted

    def fill(self, branch: Branch) -> None:
        """Put the snapshot into the new branch."""
        if self._cow is None:
            return
        from sandlock_checkpoint.image.cow import copy_branch  # lazy: few runs have a branch
        from sandlock_runtime.restored_branch import refuse_denied  # lazy: as above

        upper = os.open(branch.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            copy_branch(self._cow, upper)
            refuse_denied(upper, branch.lower, self._denied)
        finally:
            os.close(upper)
