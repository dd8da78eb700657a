"""Which devices are opened at all, where mounts stand for Landlock's right on their ioctls (before ABI 5)."""

from __future__ import annotations

import os
from errno import EACCES, ELOOP, ENOENT, ENOTDIR
from stat import S_ISBLK, S_ISCHR, S_ISDIR

from sandlock_policy.data.landlock import FS_WRITE_FILE, READ
from sandlock_sys.errors import SyscallError
from sandlock_sys.openat2 import AT_FDCWD, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_policy import Plan

__all__ = ["openable"]

_IN_ROOT = 0x10  # RESOLVE_IN_ROOT, 5.6; `constants` imports enum, which takes longer than all that is done here
# null, zero, full, random, urandom, tty (Documentation/admin-guide/devices.txt): no ioctl of theirs does harm.
_HARMLESS = [os.makedev(1, minor) for minor in (3, 5, 7, 8, 9)] + [os.makedev(5, 0)]
_FILES = ("/dev/shm", "/dev/mqueue", "/dev/hugepages")  # noqa: S108  # compared with
_NO_GRANT = (EACCES, ELOOP, ENOENT, ENOTDIR)  # the launch cannot grant that path either


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
    reading = [(root, path) for path, access, _ in rules if access & READ and not access & FS_WRITE_FILE]
    reading += [("", host) for host, _, only in view.binds if only] if view is not None else []
    devices = plan.devices or ()
    if os.path.isdir(folder):
        real = os.path.realpath(folder)
        homes = [found.st_dev for found in map(_status, (real, f"{real}/pts")) if found is not None]
        above = [os.stat(place) for place in _upwards(real)]
        if not any(_reaches(start, path, real, homes, above) for start, path in reading):
            devices = (folder,)
    return [path for path in devices if os.path.exists(path)]


def _reaches(root: str, path: str, folder: str, homes: list[int], above: list[os.stat_result]) -> bool:
    """Tell whether a grant of `path` in `root`, links followed as there, lets devices at or below `folder` be read."""
    if not root and path in _FILES:
        return False
    try:
        fd = openat2(AT_FDCWD, os.fsencode(path), os.O_PATH) if not root else _open_in(root, path)
    except SyscallError as error:
        return error.errno not in _NO_GRANT
    try:
        found, place = os.fstat(fd), os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    if S_ISCHR(found.st_mode) or S_ISBLK(found.st_mode):
        return found.st_rdev not in _HARMLESS
    if not S_ISDIR(found.st_mode):
        return False
    return (
        found.st_dev in homes
        or place.startswith(f"{folder}/")
        or any(os.path.samestat(found, upper) for upper in above)
    )


def _open_in(root: str, path: str) -> int:
    start = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(start, os.fsencode(path), os.O_PATH, _IN_ROOT)
    finally:
        os.close(start)


def _upwards(folder: str) -> list[str]:
    """Return the folders above `folder`, and itself."""
    places = [folder]
    while places[-1] != "/":
        places.append(os.path.dirname(places[-1]))
    return places


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
