"""openat2: how a path may be resolved (linux/openat2.h)."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["Resolve"]


class Resolve(IntFlag):
    """RESOLVE_*."""

    NO_XDEV = 0x01  # 5.6: stay on one mount
    NO_MAGICLINKS = 0x02  # 5.6: no /proc/PID/fd/N and the like
    NO_SYMLINKS = 0x04  # 5.6: no link at all
    BENEATH = 0x08  # 5.6: leaving the directory is an error
    IN_ROOT = 0x10  # 5.6: the directory is the root
    CACHED = 0x20  # 5.12: only if it needs no I/O
