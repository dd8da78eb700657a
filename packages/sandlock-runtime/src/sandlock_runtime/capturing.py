"""Checkpointing a sandbox: its tree stands still, is written down, and goes on as if nothing had been."""

from __future__ import annotations

import os
import time
from collections.abc import Set as AbstractSet
from dataclasses import replace
from errno import EPERM
from functools import partial
from typing import TYPE_CHECKING

from sandlock_checkpoint import CaptureError, Checkpoint, Leave, Scope, Unsupported, capture
from sandlock_checkpoint.capture.tracking_filtered import FilteredError
from sandlock_checkpoint.open_files import ExternalFile, MemoryFile
from sandlock_runtime.masking import without_values
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import list_tasks, read_children, read_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from sandlock_checkpoint import Tracker
    from sandlock_policy import Policy
    from sandlock_runtime.life import Life

__all__ = ["checkpoint_life"]

_TRIES = 200  # our own tracers hold a task for a moment: at an exec, or to see that a fork is over
_PAUSE_S = 0.01
_STREAMS = (0, 1, 2)
_OUTSIDERS = "shared_with_outsider"
_JUDGED = frozenset(["seccomp", _OUTSIDERS])  # the filter never comes back: that of the restorer's policy will be there


class _Allowed(AbstractSet[str]):
    """What may be missing: what the caller said, and what `_refuse` judges when all is known."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)

    def __contains__(self, name: object) -> bool:
        return name in self.names or name in _JUDGED or (isinstance(name, str) and _is_descriptor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def checkpoint_life(
    life: Life,
    policy: Policy,
    save_fn: Callable[[], bytes] | None,
    *,
    allow: Iterable[str],
    leave: str,
    name: str,
    tracker: Tracker | None = None,
) -> Checkpoint:
    """Return what everybody in the sandbox is; they stand still until the checkpoint is closed.

    The checkpoint belongs to the calling thread.

    Arguments:
        life: of the sandbox.
        policy: written into the checkpoint, without values of environment variables.
        save_fn: asked for bytes to keep beside, while all stand still; None for nobody.
        allow: names or kinds of what may be left out.
        leave: what becomes of them when the checkpoint is closed: "running", "stopped" or "killed".
        name: put into the checkpoint.
        tracker: watches them from now on.

    Raises:
        CaptureError: it cannot be captured; `unsupported` lists what stands against it. All run on.

    """
    allowed = _Allowed(allow)
    checkpoint = _capture(life, allowed, Leave(leave), name, tracker)
    try:
        checkpoint = _without_streams(life, checkpoint)
        _refuse(life, checkpoint, allowed.names)
        return replace(
            checkpoint,
            policy=without_values(policy).to_toml(),
            app_state=_state_of(save_fn),
            cow=life.branch.branch.upper if life.branch is not None else None,
        )
    except BaseException:
        checkpoint.close()
        raise


def _state_of(save_fn: Callable[[], bytes] | None) -> bytes | None:
    state = save_fn() if save_fn is not None else None
    if state is not None and not isinstance(state, bytes):
        raise TypeError(f"save_fn returned {type(state).__name__}, not bytes")
    return state


def _capture(life: Life, allowed: _Allowed, leave: Leave, name: str, tracker: Tracker | None) -> Checkpoint:
    pid, tries = life.pid, _TRIES
    interrupted: set[int] = set()
    admit = partial(_admit, life) if tracker is not None else None
    if life.service is not None:
        from sandlock_notif.tracing import INTERRUPTED  # lazy: it is there where a supervisor is

        interrupted = INTERRUPTED
    while True:
        try:
            return capture(
                pid, scope=Scope.TREE, leave=leave, allow=allowed, name=name, interrupted=interrupted, tracker=tracker,
                admit=admit,
            )  # fmt: skip
        except CaptureError as error:
            cause = error.__cause__
            tries -= 1
            if not tries or not isinstance(cause, SyscallError) or cause.errno != EPERM or not _held_by_us(pid):
                raise
        time.sleep(_PAUSE_S)


def _admit(life: Life, tid: int) -> AbstractContextManager[None] | None:
    """Have the supervisor let a tracker's call through in a stopped thread; None for whom only root can help.

    All below the first process stand still, so nobody sees the descriptor before it is taken away, also not in a table
    of descriptors that is shared.

    Raises:
        FilteredError: somebody does not stand still.

    """
    if _orphans(life):
        raise FilteredError("a process of the sandbox has outlived its parent, and runs on: it could take what watches")
    table = life.service.tracked_by() if life.service is not None else None
    if table is None or read_status(tid).seccomp_filters != 1:
        return None  # another filter, of a container say, might kill for the call
    return table.let_through(tid)


def _held_by_us(pid: int) -> bool:
    """Whether it is no other's word that the processes may not be traced: everything below a sandbox is ours."""
    try:
        return read_status(pid).seccomp == 2  # SECCOMP_MODE_FILTER: it is the one we have launched
    except SyscallError:
        return False


def _without_streams(life: Life, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint without the files that the launch gave as streams: the restorer gives others."""
    files = list(checkpoint.files)
    for row in checkpoint.processes[0].descriptors:
        place = f"/proc/{life.pid}/fd/{row.number}"
        if life.streams.gave(row.number, os.stat(place)):
            files[row.file] = replace(files[row.file], target=ExternalFile("stream", os.fsencode(os.readlink(place))))
    used = {file.target.memory for file in files if isinstance(file.target, MemoryFile)}
    used |= {area.memory for process in checkpoint.processes for area in process.mappings}
    # A stream may be a file without a name: nobody wants the caller's log in the image.
    shared = [memory if number in used else replace(memory, runs=()) for number, memory in enumerate(checkpoint.shared)]
    gone = {f"shared:{number}" for number in range(len(shared)) if number not in used}
    left = tuple(one for one in checkpoint.unsupported if one.name not in gone)
    return replace(checkpoint, files=tuple(files), shared=tuple(shared), unsupported=left)


def _refuse(life: Life, checkpoint: Checkpoint, allowed: frozenset[str]) -> None:
    """Raise for what the caller has not taken on: descriptors that lead outside but the streams, and orphans."""
    files = checkpoint.files
    streams = {row.file for row in checkpoint.processes[0].descriptors if row.number in _STREAMS}
    outside = {
        (f"{process.pid}/" if number else "") + f"fd:{row.number}"
        for number, process in enumerate(checkpoint.processes)
        for row in process.descriptors
        if isinstance(files[row.file].target, ExternalFile) and row.file not in streams
    }
    lacking = [one for one in checkpoint.unsupported if one.name in outside or one.kind == _OUTSIDERS]
    lacking += [
        Unsupported(f"process:{pid}", "process", f"process {pid} has outlived its parent: it is below no other")
        for pid in _orphans(life)
    ]
    left = tuple(one for one in lacking if one.name not in allowed and one.kind not in allowed)
    if left:
        words = "; ".join(f"{one.name} ({one.kind}): {one.reason}" for one in left)
        raise CaptureError(life.pid, f"it has what cannot be captured: {words}", left)


def _is_descriptor(name: str) -> bool:
    return name.rpartition("/")[2].startswith("fd:")


def _orphans(life: Life) -> list[int]:
    """Return the processes that are below the guard and not below the first one, which is frozen."""
    found = []
    for pid in _children(life.guard_pid):
        if pid == life.pid:
            continue
        numbers = read_status(pid).ns_pid or ()
        if len(numbers) > 1 and numbers[-1] == 1:  # the init of the sandbox's own pid namespace
            found += _children(pid)
        else:
            found.append(pid)
    return found


def _children(pid: int) -> list[int]:
    return [child for tid in list_tasks(pid) for child in read_children(pid, tid)]
