"""What the object of an O_PATH fd is, as the kernel writes it for a program: fstatat, statx, fstatfs, faccessat2.

An O_PATH fd pins an object without opening it; these calls look at exactly that object, whatever its name leads to now.
The structures are given as bytes, in this architecture's layout, to be handed on unread.
"""

from __future__ import annotations

from errno import ENAMETOOLONG

from sandlock_sys._buffers import writable
from sandlock_sys._call import check
from sandlock_sys._ffi import lib
from sandlock_sys.errors import SyscallError

__all__ = ["access", "getdents", "readlink", "renumber_stat", "renumber_statx", "stat", "statfs", "statx"]

_ROOM = 256  # in _csrc/inode.h: struct stat, struct statx and struct statfs of every architecture fit
_LINK_ROOM = 4096  # PATH_MAX: no symlink is longer


def stat(fd: int) -> bytes:
    """Return struct stat; on every architecture it begins with st_dev and st_ino, of eight bytes each."""
    memory = bytearray(_ROOM)
    size = check("newfstatat", lib.sl_inode_stat(fd, writable(memory)))
    return bytes(memory[:size])


def statx(fd: int, flags: int, mask: int) -> bytes:
    """Return struct statx; `flags` are AT_STATX_* bits.

    Raises:
        SyscallError: EINVAL for unknown flags or a reserved bit of the mask.

    """
    memory = bytearray(_ROOM)
    check("statx", lib.sl_inode_statx(fd, flags, mask, writable(memory)))
    return bytes(memory)


def renumber_stat(content: bytes, device: int, inode: int) -> bytes:
    """Return struct stat with another st_dev and st_ino."""
    memory = bytearray(content)
    lib.sl_inode_renumber_stat(writable(memory), device, inode)
    return bytes(memory)


def renumber_statx(content: bytes, device: int, inode: int) -> bytes:
    """Return struct statx with another stx_dev_major, stx_dev_minor and stx_ino."""
    memory = bytearray(content)
    lib.sl_inode_renumber_statx(writable(memory), device, inode)
    return bytes(memory)


def statfs(fd: int) -> bytes:
    """Return struct statfs of the file system that the object is on."""
    memory = bytearray(_ROOM)
    size = check("fstatfs", lib.sl_inode_statfs(fd, writable(memory)))
    return bytes(memory[:size])


def access(fd: int, mode: int, flags: int = 0) -> None:
    """Check what this process may do with the object (faccessat2(2), 5.8).

    Raises:
        SyscallError: EACCES, EROFS, EINVAL for an unknown mode or flag.

    """
    check("faccessat2", lib.sl_inode_access(fd, mode, flags))


def readlink(fd: int) -> bytes:
    """Return where the symlink that `fd` pins points.

    Raises:
        SyscallError: ENOENT when the object is no symlink (EINVAL for some), ENAMETOOLONG past PATH_MAX.

    """
    memory = bytearray(_LINK_ROOM)
    size = check("readlinkat", lib.sl_inode_readlink(fd, writable(memory), _LINK_ROOM))
    if size >= _LINK_ROOM:  # cut: /proc does so
        raise SyscallError("readlinkat", ENAMETOOLONG)
    return bytes(memory[:size])


def getdents(fd: int, size: int) -> bytes:
    """Return the next entries of an open directory: struct linux_dirent64, one behind the other; none at the end."""
    memory = bytearray(size)
    count = check("getdents64", lib.sl_inode_getdents(fd, writable(memory), size))
    return bytes(memory[:count])
