"""Memfds: anonymous files that can be sealed against change (memfd_create(2), 3.17)."""

from __future__ import annotations

from sandlock_sys._call import check
from sandlock_sys._ffi import lib

__all__ = ["add_seals", "create", "get_seals"]

_CLOEXEC = 1  # MFD_CLOEXEC, linux/memfd.h, 3.17
_ALLOW_SEALING = 2  # MFD_ALLOW_SEALING, linux/memfd.h, 3.17


def create(name: bytes, flags: int = _CLOEXEC | _ALLOW_SEALING) -> int:
    """Return a new empty memfd that the caller owns.

    Arguments:
        name: shown in /proc/PID/fd as memfd:NAME; at most 249 bytes, no NUL.
        flags: MFD_* bits. The default can be sealed and is closed on exec.

    Raises:
        SyscallError: EINVAL for a name that is too long or an unknown flag; EACCES when vm.memfd_noexec demands
            MFD_NOEXEC_SEAL (6.3).

    """
    if b"\0" in name:
        raise ValueError(f"NUL byte in the name {name!r}")
    return check("memfd_create", lib.sl_memfd_create(name, flags), repr(name))


def add_seals(fd: int, seals: int) -> None:
    """Add F_SEAL_* bits, which no one can take back.

    Raises:
        SyscallError: EPERM when F_SEAL_SEAL is set or the fd is not writable, EBUSY for F_SEAL_WRITE while a writable
            shared mapping exists.

    """
    check("fcntl F_ADD_SEALS", lib.sl_memfd_add_seals(fd, seals), f"fd {fd}, seals {seals:#x}")


def get_seals(fd: int) -> int:
    """Return the F_SEAL_* bits of the file; EINVAL when it is of a kind that cannot be sealed."""
    return check("fcntl F_GET_SEALS", lib.sl_memfd_get_seals(fd), f"fd {fd}")
