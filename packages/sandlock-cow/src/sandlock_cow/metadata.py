"""Attributes from one object to another: owner, mode, extended attributes with ACLs, times."""

from __future__ import annotations

import errno
import os
import stat

from sandlock_cow import overlay

__all__ = ["copy_directory", "copy_link", "copy_open_file", "copy_xattrs", "program_xattrs", "set_times"]

_REFUSED = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL)


def _through(fd: int) -> str:
    # Safety: the magic link leads to the very object that the fd pins; it is how O_PATH fds take these calls.
    return f"/proc/self/fd/{fd}"


def program_xattrs(path: str | bytes | int, *, follow: bool = True, upper: bool = False) -> dict[bytes, bytes]:
    """The extended attributes that a program sees, by name; of an object in the `upper` layer, unescaped."""
    found: dict[bytes, bytes] = {}
    try:
        names = os.listxattr(path) if isinstance(path, int) else os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EACCES, errno.EPERM):
            raise
        return found
    for name in map(os.fsencode, names):
        seen = overlay.unescape(name)
        if seen is None or (seen != name and not upper):
            continue  # our marks; in the lower layer those of another overlay, which overlayfs hides too
        try:
            value = (
                os.getxattr(path, name) if isinstance(path, int) else os.getxattr(path, name, follow_symlinks=follow)
            )
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP):
                raise
            continue
        found[seen] = value
    return found


def copy_xattrs(source: str | int, target: str | int, *, upper: bool = False) -> None:
    """Copy extended attributes; those of the kernel's own name spaces only where the kernel lets us set them."""
    for name, value in program_xattrs(source, upper=upper).items():
        try:
            os.setxattr(target, name, value)
        except OSError as error:
            if name.startswith(b"user.") or error.errno not in _REFUSED:
                raise


def _copy_owner(target: str | int, found: os.stat_result) -> None:
    """Give the target the same owner, or at least the same group, where we may."""
    current = os.stat(target)
    if (current.st_uid, current.st_gid) == (found.st_uid, found.st_gid):
        return
    for uid in (found.st_uid, -1):
        try:
            os.chown(target, uid, found.st_gid)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
        else:
            return


def set_times(target: str | int, atime_ns: int, mtime_ns: int) -> None:
    """Access and modification time, where they are ours to set."""
    try:
        os.utime(target, ns=(atime_ns, mtime_ns))
    except PermissionError:
        # A directory of somebody else's that we may write: its times tell of our writing, as they always do there.
        if os.stat(target).st_uid == os.geteuid():
            raise


def _copy_all(source: str | int, target: str | int, found: os.stat_result, *, upper: bool = False) -> None:
    # In this order: a change of owner clears set-user-ID and file capabilities, and everything moves the times.
    _copy_owner(target, found)
    copy_xattrs(source, target, upper=upper)
    if stat.S_IMODE(os.stat(target).st_mode) != stat.S_IMODE(found.st_mode):
        os.chmod(target, stat.S_IMODE(found.st_mode))
    set_times(target, found.st_atime_ns, found.st_mtime_ns)


def copy_open_file(source: int, target: int, found: os.stat_result, *, upper: bool = False) -> None:
    """All attributes of the open file `source` (in the `upper` layer), which are `found`, to the open file `target`."""
    _copy_all(source, target, found, upper=upper)


def copy_directory(source: int, target: int, *, upper: bool = False) -> None:
    """All attributes of one directory (in the `upper` layer) to another; both fds may be O_PATH."""
    if upper:
        wanted = program_xattrs(_through(source), upper=True)
        for name in program_xattrs(_through(target)).keys() - wanted.keys():
            if name.startswith((b"user.", b"system.posix_acl")):
                os.removexattr(_through(target), name)
    _copy_all(_through(source), _through(target), os.fstat(source), upper=upper)


def copy_link(directory: int, name: bytes, found: os.stat_result) -> None:
    """Owner, mode (of what is no symlink) and times to a name that is a symlink, FIFO or socket."""
    current = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if (current.st_uid, current.st_gid) != (found.st_uid, found.st_gid):
        try:
            os.chown(name, found.st_uid, found.st_gid, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
    if not stat.S_ISLNK(found.st_mode) and stat.S_IMODE(current.st_mode) != stat.S_IMODE(found.st_mode):
        pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.chmod(_through(pinned), stat.S_IMODE(found.st_mode))
        finally:
            os.close(pinned)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=directory, follow_symlinks=False)
