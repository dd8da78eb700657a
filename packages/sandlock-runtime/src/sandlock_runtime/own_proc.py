"""Whether /proc tells of this process: a supervisor reads there what its programs do."""

from __future__ import annotations

import os
from errno import ESRCH

from sandlock_runtime.errors import ConfinementError

__all__ = ["require_own_proc"]


def require_own_proc() -> None:
    """Raise ConfinementError where /proc cannot be read, or is that of another pid namespace."""
    try:
        with open("/proc/self/stat", "rb") as file:
            pid = int(file.read(32).split()[0])
    except OSError as error:
        raise ConfinementError(
            "proc",
            f"/proc is needed where something is served, and cannot be read: {error.strerror}",
            error.errno or 0,
            "a sandbox around this one must let it be read (-r /proc); elsewhere mount it (mount -t proc proc /proc)",
        ) from error
    if pid != os.getpid():
        raise ConfinementError(
            "proc",
            "/proc is needed where something is served, and is that of another pid namespace",
            ESRCH,
            "mount the one of this namespace: mount -t proc proc /proc, or unshare --mount-proc",
        )
