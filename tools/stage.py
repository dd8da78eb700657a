"""Where environments and test runs live: a folder that an ordinary user can reach too.

Half of the tests run as a user who may not enter the checkout (a clone in /root, in a private temporary folder).
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from workspace import ROOT

__all__ = ["RESULTS", "is_reachable", "stage"]

RESULTS = ROOT / "build" / "results"


def stage(root: Path = ROOT) -> Path:
    """`.nox` of the checkout, or a folder of ours below /var/tmp where root's checkout is closed to others.

    Raises PermissionError if that folder's name is taken by somebody else: /var/tmp is open to all.
    """
    if os.geteuid() != 0 or is_reachable(root):
        return root / ".nox"
    name = f"sandlock-{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}"
    folder = Path("/var/tmp", name)  # noqa: S108 -- its owner is checked below
    folder.mkdir(mode=0o755, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is not a folder that only root can write")
    folder.chmod(0o755)  # the umask may have closed it
    return folder


def is_reachable(folder: Path) -> bool:
    """Whether every user may enter `folder` and all that is above it."""
    resolved = folder.resolve()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (resolved, *resolved.parents))
