"""close_range: flags (linux/close_range.h)."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["CloseRange"]


class CloseRange(IntFlag):
    """CLOSE_RANGE_*."""

    UNSHARE = 1 << 1  # 5.9: first take an own fd table
    CLOEXEC = 1 << 2  # 5.11: only mark close-on-exec
