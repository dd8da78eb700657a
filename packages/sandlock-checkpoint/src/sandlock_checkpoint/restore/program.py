"""Let the fresh process execute the captured program's file, so that /proc/PID/exe leads there, and stop it at once."""

from __future__ import annotations

import os
import stat
import struct

from sandlock_checkpoint.errors import RestoreError
from sandlock_checkpoint.inject import find_call
from sandlock_checkpoint.model import ProcessInfo
from sandlock_checkpoint.restore.plan import differs
from sandlock_checkpoint.restore.target import Target

__all__ = ["execute_program"]


def execute_program(target: Target, process: ProcessInfo) -> None:
    """Execute the program; not one instruction of it runs.

    The link cannot be changed later without a privilege, and programs use it: to start themselves again, to find what
    lies beside them. Executing is judged by whatever confines the process.
    """
    known = next(
        (area.file for area in process.mappings if area.file is not None and area.file.path == process.exe), None
    )
    if known is None:
        return  # a deleted program, or one that has unmapped itself: it stays the stub, which is as good to run in
    if known.mode & (stat.S_ISUID | stat.S_ISGID):
        return  # it must not gain what the checkpoint had not
    path = process.exe + b"\0"
    with target.main_scratch() as scratch:
        name = scratch.write(path, 64)
        vector = scratch.write(struct.pack("<QQ", name, 0))
        nothing = scratch.write(bytes(8), 32)
        error = target.errno("execve", name, vector, nothing)
        if error:
            raise RestoreError(os.fsdecode(process.exe), f"it cannot be executed: {os.strerror(error)}")
        scratch.address = 0  # gone with the memory it was in
    target.main.entry = find_call(target.pid, target.architecture).call
    facts = os.stat(f"/proc/{target.pid}/exe")
    change = differs(known, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, contents=True)
    if change:
        raise RestoreError(os.fsdecode(process.exe), change)
