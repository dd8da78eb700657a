"""`sandlock checkpoint`: a run that has a name, or any process that the caller may trace, saved as an image."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from sandlock_checkpoint import CheckpointError, Leave, Scope, capture, image
from sandlock_cli.failure import NOT_SET_UP, warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.progress import Bar
from sandlock_cli.runs import find_run
from sandlock_cli.verbs import options_of
from sandlock_runtime.control import ask
from sandlock_runtime.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Save it: 0; 1 where there is no such run; 125 where it cannot be saved, and it runs on."""
    values, rest = parse(words, table(options_of("checkpoint")), "checkpoint")
    if values.get("help"):
        return print_verb("checkpoint")
    pid = values.get("pid", "")
    if pid and len(rest) != 1:
        raise UsageError("checkpoint --pid needs one directory, in which the image will be", "checkpoint")
    if not pid and len(rest) != 2:
        raise UsageError("checkpoint needs a run's name, or --pid PID, and one directory for the image", "checkpoint")
    if pid and not (pid.isascii() and pid.isdigit() and int(pid)):
        raise UsageError(f"--pid {pid} is no process id", "checkpoint")
    if pid and values.get("track"):
        raise UsageError("--track is of a run, whose launcher watches it; nobody is left to watch --pid", "checkpoint")
    try:
        leave = Leave(values.get("leave", "running"))
    except ValueError:
        states = ", ".join(state.value for state in Leave)
        raise UsageError(f"--leave {values['leave']}: it is one of {states}", "checkpoint") from None
    return _save_process(int(pid), rest[0], leave, values) if pid else _save_run(rest[0], rest[1], leave, values)


def _save_run(name: str, folder: str, leave: Leave, values: dict[str, Any]) -> int:
    """Have a run saved by the process that launched it."""
    run = find_run(name)
    if run is None:
        return 1
    parent = values.get("parent")
    wanted = {
        "folder": os.path.abspath(folder),
        "leave": leave.value,
        "allow": list(values.get("allow", ())),
        "compression": "zstd" if values.get("zstd") else "none",
        "parent": os.path.abspath(parent) if parent is not None else None,
        "track": bool(values.get("track")),
    }
    try:
        answer = ask(run.file, run.host, wanted)
    except SandboxError as error:
        warn(f"{name}: {error}")
        return NOT_SET_UP
    if "error" in answer:
        return _refuse(answer["error"], answer.get("unsupported", ()))
    for pid, why in answer["untracked"]:
        warn(f"process {pid} is not watched, its pages will be compared: {why}")
    if values.get("json"):
        print(json.dumps(answer))
    return 0


def _save_process(pid: int, folder: str, leave: Leave, values: dict[str, Any]) -> int:
    scope = Scope.TREE if values.get("tree") else Scope.PROCESS
    try:
        taken = capture(pid, scope=scope, leave=leave, allow=frozenset(values.get("allow", ())))
        compression = "zstd" if values.get("zstd") else "none"
        parent = values.get("parent")
        with Bar("MiB", 20, quiet=bool(values.get("quiet"))) as progress:
            digest = image.save(taken, folder, compression=compression, parent=parent, progress=progress)
    except CheckpointError as error:
        listed = [(one.name, one.kind, one.reason) for one in getattr(error, "unsupported", ())]
        return _refuse(str(error), listed)
    if values.get("json"):
        print(json.dumps({"digest": digest, "pid": pid}))
    return 0


def _refuse(reason: str, unsupported: Iterable[Iterable[str]]) -> int:
    warn(reason)
    for name, kind, why in unsupported:
        warn(f"{name} ({kind}): {why}; --allow {name} goes on without it")
    return NOT_SET_UP
