"""The format of the upper layer: that of overlayfs with `userxattr` (Documentation/filesystems/overlayfs.rst).

A whiteout is a character device 0/0, which any user may make since 5.8. Where mknod refuses even that (a container's
seccomp profile), it is an empty file with `user.overlay.whiteout` in a directory with `user.overlay.opaque` = "x":
overlayfs reads those since 6.7. A directory with `user.overlay.opaque` = "y" hides the lower one of its name.

What a program calls `user.overlay.*` is stored as `user.overlay.overlay.*`, as overlayfs does since 6.7: a program
cannot forge our marks, nor see them.
"""

from __future__ import annotations

import errno
import os
import stat

from sandlock_cow.walking import opened_up

__all__ = [
    "IDENTITY",
    "OPAQUE",
    "escape",
    "is_opaque",
    "is_whiteout",
    "is_whiteout_mode",
    "make_whiteout",
    "may_be_opaque",
    "note_whiteouts",
    "set_opaque",
    "unescape",
    "writes_device_whiteouts",
]

OPAQUE = b"user.overlay.opaque"
_WHITEOUT = b"user.overlay.whiteout"
_MARKED_MODE = 0o400  # of a whiteout of the second kind: its owner has to read its attribute
# Ours; overlayfs hides whatever begins with its prefix and ignores what it does not know.
IDENTITY = b"user.overlay.sandlock.identity"
_OWN = b"user.overlay."
_ESCAPED = b"user.overlay.overlay."
_ABSENT = (errno.ENODATA, errno.EOPNOTSUPP)


def _place(directory: int, name: bytes) -> bytes:
    # Safety: the directory is pinned by its fd, and callers pass follow_symlinks=False for the name.
    return b"/proc/self/fd/%d/%s" % (directory, name)


def escape(name: bytes) -> bytes:
    """The stored name of a program's extended attribute."""
    return _ESCAPED + name[len(_OWN) :] if name.startswith(_OWN) else name


def unescape(name: bytes) -> bytes | None:
    """The name that a program sees, None for one of our own."""
    if name.startswith(_ESCAPED):
        return _OWN + name[len(_ESCAPED) :]
    return None if name.startswith(_OWN) else name


def is_whiteout_mode(found: os.stat_result) -> bool:
    """Whether this is the usual kind of whiteout."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_whiteout(directory: int, name: bytes, found: os.stat_result) -> bool:
    """Whether the entry `name` of the upper directory, whose attributes are `found`, is a whiteout of either kind."""
    if is_whiteout_mode(found):
        return True
    if not stat.S_ISREG(found.st_mode) or found.st_size or stat.S_IMODE(found.st_mode) != _MARKED_MODE:
        return False
    return _has(directory, name, _WHITEOUT) is not None


def is_opaque(directory: int) -> bool:
    """Whether the upper directory (an fd, O_PATH too) hides the lower one."""
    return _of_directory(directory) == b"y"


def may_be_opaque(directory: int, name: bytes) -> bool:
    """Whether the upper directory `name` hides the lower one; True too where its mode forbids to look."""
    try:
        return _has(directory, name, OPAQUE) == b"y"
    except PermissionError:
        return True


def _of_directory(directory: int) -> bytes | None:
    # Safety: the magic link leads to the pinned directory itself; `.` would need the right to search it.
    path = b"/proc/self/fd/%d" % directory
    try:
        return _value(path, OPAQUE, follow=True)
    except PermissionError:
        with opened_up(directory, refused=True):
            return _value(path, OPAQUE, follow=True)


def _has(directory: int, name: bytes, attribute: bytes) -> bytes | None:
    return _value(_place(directory, name), attribute, follow=False)


def _value(path: bytes, attribute: bytes, *, follow: bool) -> bytes | None:
    try:
        return os.getxattr(path, attribute, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return None


def set_opaque(directory: int, name: bytes) -> None:
    """Make the upper directory `name` (ours, whatever its mode) hide the lower one."""
    place = _place(directory, name)
    try:
        os.setxattr(place, OPAQUE, b"y", follow_symlinks=False)
    except PermissionError:
        mode = stat.S_IMODE(os.stat(place, follow_symlinks=False).st_mode)
        os.chmod(place, mode | 0o200)
        try:
            os.setxattr(place, OPAQUE, b"y", follow_symlinks=False)
        finally:
            os.chmod(place, mode)


def writes_device_whiteouts(work: int) -> bool:
    """Whether mknod of a whiteout works in this directory: tried, once for each branch."""
    try:
        os.mknod(b"probe", stat.S_IFCHR, 0, dir_fd=work)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        return False
    os.unlink(b"probe", dir_fd=work)
    return True


def make_whiteout(directory: int, name: bytes, *, device: bool) -> None:
    """Make a whiteout in the work directory; whoever renames it into an upper directory says there that it has some.

    Arguments:
        directory: the work directory's fd.
        name: must not exist.
        device: which of the two kinds.

    """
    if device:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)
        return
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o200, dir_fd=directory)
    try:
        os.setxattr(fd, _WHITEOUT, b"y")
        os.fchmod(fd, _MARKED_MODE)
    finally:
        os.close(fd)


def note_whiteouts(directory: int) -> None:
    """Say on an upper directory that it holds whiteouts of the second kind, unless it is opaque already."""
    if _of_directory(directory) is None:
        with opened_up(directory):
            os.setxattr(_place(directory, b"."), OPAQUE, b"x", follow_symlinks=False)
