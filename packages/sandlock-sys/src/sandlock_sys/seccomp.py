"""Seccomp: a thread installs a BPF program that judges its system calls from then on (seccomp(2)).

Flags and actions are plain integers here; `sandlock_sys.constants.seccomp` names them.
"""

from __future__ import annotations

from errno import EOPNOTSUPP

from sandlock_sys._call import check
from sandlock_sys._ffi import ffi, lib

__all__ = ["get_action_avail", "get_notif_sizes", "set_mode_filter"]


def set_mode_filter(program: bytes, flags: int = 0) -> int:
    """Install `program` for the calling thread, and all it starts; there is no way back.

    Arguments:
        program: an array of struct sock_filter (linux/filter.h), 8 bytes each, at most 4096 of them.
        flags: SECCOMP_FILTER_FLAG_* bits.

    Returns:
        The listener's fd, close-on-exec, that the caller owns, with SECCOMP_FILTER_FLAG_NEW_LISTENER; else 0.

    Raises:
        SyscallError: EACCES without no_new_privs or CAP_SYS_ADMIN; EINVAL for an unknown flag or a program that the
            kernel's checker refuses; EBUSY when a filter of this thread has a listener already; ESRCH when
            SECCOMP_FILTER_FLAG_TSYNC_ESRCH found a thread that cannot be synchronised.

    """
    result = lib.sl_seccomp_set_mode_filter(flags, program, len(program))
    return check("seccomp", result, f"flags {flags:#x}, {len(program) // 8} instructions")


def get_action_avail(action: int) -> bool:
    """Tell whether this kernel knows the filter return `action` (SECCOMP_RET_*; 4.14)."""
    result = lib.sl_seccomp_get_action_avail(action)
    if result == -EOPNOTSUPP:
        return False
    check("seccomp", result, f"SECCOMP_GET_ACTION_AVAIL {action:#x}")
    return True


def get_notif_sizes() -> tuple[int, int, int]:
    """Return the kernel's sizes in bytes of struct seccomp_notif, seccomp_notif_resp and seccomp_data (5.0)."""
    sizes = ffi.new("struct sl_seccomp_notif_sizes *")
    check("seccomp", lib.sl_seccomp_get_notif_sizes(sizes), "SECCOMP_GET_NOTIF_SIZES")
    return sizes.notif, sizes.response, sizes.data
