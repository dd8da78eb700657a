"""Which devices are opened at all, where mounts stand for Landlock's right on their ioctls (before ABI 5)."""

from __future__ import annotations

import os
from stat import S_ISBLK, S_ISCHR, S_ISDIR
from typing import TYPE_CHECKING

from sandlock_policy.data.landlock import FS_WRITE_FILE, READ

if TYPE_CHECKING:
    from sandlock_policy import Plan

__all__ = ["openable"]

# null, zero, full, random, urandom, tty (Documentation/admin-guide/devices.txt): no ioctl of theirs does harm.
_HARMLESS = [os.makedev(1, minor) for minor in (3, 5, 7, 8, 9)] + [os.makedev(5, 0)]
_FILES = ("/dev/shm", "/dev/mqueue", "/dev/hugepages")  # noqa: S108  # compared with


def openable(plan: Plan) -> list[str]:
    """Return the paths on the host where devices stay what they are, while everywhere else none is opened.

    All of /dev, where no grant for reading alone leads to a device: then Landlock lets none be opened but those that
    may be written. A Landlock rule belongs to an inode, so that a link or a mount elsewhere would open a device below
    /dev as well; the objects decide, not the names. Otherwise the plan's, each a mount: /dev/ptmx has no /dev/pts.
    """
    view = plan.view
    root = ((view.root if view is not None else None) or "").rstrip("/")
    folder = f"{root}/dev"
    rules = (*plan.fs_rules, *(view.rules if view is not None else ()))
    reading = [f"{root}{path}" for path, access, _ in rules if access & READ and not access & FS_WRITE_FILE]
    reading += [host for host, _, only in view.binds if only] if view is not None else []
    homes = [found.st_dev for found in map(_status, (folder, f"{folder}/pts")) if found is not None]
    devices = plan.devices or ()
    if os.path.isdir(folder) and not any(_reaches(path, folder, homes) for path in reading):
        devices = (folder,)
    return [path for path in devices if os.path.exists(path)]


def _reaches(path: str, folder: str, homes: list[int]) -> bool:
    found = _status(path)
    if found is None:
        return False
    if S_ISCHR(found.st_mode) or S_ISBLK(found.st_mode):
        return found.st_rdev not in _HARMLESS
    if not S_ISDIR(found.st_mode) or path in _FILES:
        return False
    return folder.startswith(path) or found.st_dev in homes or path.startswith(f"{folder}/")


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
