"""Which id a pid namespace gives to the next process or thread (/proc/sys/kernel/ns_last_pid, 3.3)."""

from __future__ import annotations

from sandlock_sys._call import check
from sandlock_sys._ffi import lib

__all__ = ["set_last_id"]


def set_last_id(user_namespace: int | None, pid_namespace: int, last: int) -> None:
    """Have a pid namespace go on as if it had given the id `last`; the next one is the first free one behind.

    Arguments:
        user_namespace: fd of the one that the pid namespace belongs to, None where it is the caller's. He must have
            made it, or have CAP_SYS_ADMIN over it.
        pid_namespace: fd of /proc/PID/ns/pid, not of the caller's own.
        last: 0 or more.

    Raises:
        SyscallError: EPERM without rights over them, ENOENT where the kernel has no such file
            (CONFIG_CHECKPOINT_RESTORE), EINVAL for an id that it does not give.

    """
    digits = b"%d" % last
    inside = -1 if user_namespace is None else user_namespace
    check("ns_last_pid", lib.sl_set_last_id(inside, pid_namespace, digits, len(digits)), f"last id {last}")
