"""`sandlock checkpoint --pid`: a process that is no run, saved once, or with --track again whenever it is asked for.

The kernel notes writes for whoever holds a descriptor, and forgets them with him. So with --track the command stays:
each line that it reads is the directory of another image, on the one before.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from sandlock_checkpoint import CaptureError, CheckpointError, Leave, Scope, Tracker, capture, image
from sandlock_cli.failure import NOT_SET_UP, warn
from sandlock_cli.options import UsageError
from sandlock_cli.progress import Bar
from sandlock_sys import pidfd
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["refuse", "save_process"]


def save_process(pid: int, folder: str, leave: Leave, values: dict[str, Any]) -> int:
    """Save it: 0; 125 where that failed, or, with --track, did once."""
    parent = values.get("parent")
    if not values.get("track"):
        return _save(pid, folder, leave, parent, values, None)
    if leave is not Leave.RUNNING:
        raise UsageError(f"--track watches what runs on, and --leave {leave.value} ends that", "checkpoint")
    with Tracker() as tracker, _Same(pid) as same:
        status = _save(pid, folder, leave, parent, values, tracker)
        if status:
            return status
        parent = folder
        for line in sys.stdin:
            following = line.rstrip("\n")
            if not following:
                continue
            failed = _save(pid, following, leave, parent, values, tracker, same)
            if failed:
                status = failed
            else:
                parent = following
    return status


class _Same:
    """Tells whether a process is the one that it was: its number goes to another as soon as it is buried."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._fd = -1
        with suppress(SyscallError):  # whoever is not there cannot be captured, which is told
            self._fd = pidfd.open_pidfd(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def check(self) -> None:
        """Raise CaptureError once it has ended."""
        if self._fd < 0 or pidfd.wait(self._fd, 0):
            raise CaptureError(self._pid, "it has ended, and its number may be another's now")


def _save(
    pid: int,
    folder: str,
    leave: Leave,
    parent: str | None,
    values: dict[str, Any],
    tracker: Tracker | None,
    same: _Same | None = None,
) -> int:
    scope = Scope.TREE if values.get("tree") else Scope.PROCESS
    try:
        if same is not None:
            same.check()  # nobody else is stopped
        taken = capture(pid, scope=scope, leave=leave, allow=frozenset(values.get("allow", ())), tracker=tracker)
        if same is not None:
            try:
                same.check()
            except CheckpointError:
                taken.abandon()
                raise
        compression = "zstd" if values.get("zstd") else "none"
        with Bar("MiB", 20, quiet=bool(values.get("quiet"))) as progress:
            digest = image.save(taken, folder, compression=compression, parent=parent, progress=progress)
    except CheckpointError as error:
        listed = [(one.name, one.kind, one.reason) for one in getattr(error, "unsupported", ())]
        return refuse(str(error), listed)
    told: dict[str, Any] = {"digest": digest, "pid": pid}
    if tracker is not None:
        told |= {"folder": folder, "untracked": list(tracker.untracked.items())}
        for number, why in tracker.untracked.items():
            warn(f"process {number} is not watched, its pages will be compared: {why}")
    if values.get("json"):
        print(json.dumps(told), flush=True)
    elif tracker is not None:
        print(folder, flush=True)  # whoever asked for it knows when it is there
    return 0


def refuse(reason: str, unsupported: Iterable[Iterable[str]]) -> int:
    """Tell why nothing was saved, and what would be left out; return the exit status."""
    warn(reason)
    for name, kind, why in unsupported:
        warn(f"{name} ({kind}): {why}; --allow {name} goes on without it")
    return NOT_SET_UP
