"""`sandlock checkpoint`: a run that has a name, or any process that the caller may trace, saved as an image."""

from __future__ import annotations

import json
import os
from typing import Any

from sandlock_checkpoint import Leave
from sandlock_cli.checkpoint_process import refuse, save_process
from sandlock_cli.failure import NOT_SET_UP, warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.runs import find_run
from sandlock_cli.verbs import options_of
from sandlock_runtime.control import ask
from sandlock_runtime.errors import SandboxError

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
    try:
        leave = Leave(values.get("leave", "running"))
    except ValueError:
        states = ", ".join(state.value for state in Leave)
        raise UsageError(f"--leave {values['leave']}: it is one of {states}", "checkpoint") from None
    return save_process(int(pid), rest[0], leave, values) if pid else _save_run(rest[0], rest[1], leave, values)


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
        return refuse(answer["error"], answer.get("unsupported", ()))
    for pid, why in answer["untracked"]:
        warn(f"process {pid} is not watched, its pages will be compared: {why}")
    if values.get("json"):
        print(json.dumps(answer))
    return 0
