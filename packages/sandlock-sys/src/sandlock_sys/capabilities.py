"""Effective capabilities of the calling thread (capset(2), capabilities(7)): given up for a while, or for good."""

from __future__ import annotations

from sandlock_sys._call import check
from sandlock_sys._ffi import ffi, lib

__all__ = ["set_effective"]


def set_effective(mask: int) -> int:
    """Make `mask` (bit N: capability N) this thread's effective capabilities; return those it had.

    What is permitted stays permitted, so they can be taken back.

    Raises:
        SyscallError: EPERM for one that is not permitted.

    """
    before = ffi.new("uint64_t *")
    check("capset", lib.sl_capabilities_set(mask, before), f"effective {mask:#x}")
    return int(before[0])
