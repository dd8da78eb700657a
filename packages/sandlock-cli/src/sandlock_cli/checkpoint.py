"""`sandlock checkpoint`: a running process that the caller may trace, saved as an image."""

from __future__ import annotations

import json

from sandlock_checkpoint import CheckpointError, Leave, Scope, capture, image
from sandlock_cli.failure import NOT_SET_UP, warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.progress import bar
from sandlock_cli.verbs import options_of

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Save the process: 0, or 125 where that failed, and the process runs on."""
    values, rest = parse(words, table(options_of("checkpoint")), "checkpoint")
    if values.get("help"):
        return print_verb("checkpoint")
    if len(rest) != 1:
        raise UsageError("checkpoint needs one directory, in which the image will be", "checkpoint")
    pid = values.get("pid", "")
    if not (pid.isascii() and pid.isdigit() and int(pid)):
        raise UsageError("checkpoint needs the process: --pid PID", "checkpoint")
    try:
        leave = Leave(values.get("leave", "running"))
    except ValueError:
        states = ", ".join(state.value for state in Leave)
        raise UsageError(f"--leave {values['leave']}: it is one of {states}", "checkpoint") from None
    scope = Scope.TREE if values.get("tree") else Scope.PROCESS
    try:
        taken = capture(int(pid), scope=scope, leave=leave, allow=frozenset(values.get("allow", ())))
        compression = "zstd" if values.get("zstd") else "none"
        digest = image.save(
            taken, rest[0], compression=compression, parent=values.get("parent"), progress=bar("MiB", 20)
        )
    except CheckpointError as error:
        warn(str(error))
        for one in getattr(error, "unsupported", ()):
            warn(f"{one.name} ({one.kind}): {one.reason}; --allow {one.name} goes on without it")
        return NOT_SET_UP
    if values.get("json"):
        print(json.dumps({"digest": digest, "pid": int(pid)}))
    return 0
