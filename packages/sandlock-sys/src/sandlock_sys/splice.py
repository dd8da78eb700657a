"""Pipes: copy what is in one without taking it out (tee(2), 2.6.17)."""

from __future__ import annotations

from sandlock_sys._call import check, restarting
from sandlock_sys._ffi import lib

__all__ = ["tee"]

_NONBLOCK = 2  # SPLICE_F_NONBLOCK, linux/splice.h


def tee(source: int, target: int, length: int) -> int:
    """Copy up to `length` bytes from pipe `source` to pipe `target`, without waiting; return how many.

    Raises:
        SyscallError: EAGAIN when `source` is empty and has a writer, or `target` is full; EINVAL for what is no pipe.

    """
    return check("tee", restarting(lib.sl_tee, source, target, length, _NONBLOCK), f"from fd {source} to fd {target}")
