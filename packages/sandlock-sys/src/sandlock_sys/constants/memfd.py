"""Memfds: creation flags and seals (linux/memfd.h, linux/fcntl.h)."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["CreateFlag", "Seal"]


class CreateFlag(IntFlag):
    """MFD_*."""

    CLOEXEC = 0x01  # 3.17
    ALLOW_SEALING = 0x02  # 3.17
    HUGETLB = 0x04  # 4.14
    NOEXEC_SEAL = 0x08  # 6.3
    EXEC = 0x10  # 6.3


class Seal(IntFlag):
    """F_SEAL_*."""

    SEAL = 0x01  # 3.17: no more seals
    SHRINK = 0x02  # 3.17
    GROW = 0x04  # 3.17
    WRITE = 0x08  # 3.17
    FUTURE_WRITE = 0x10  # 5.1
    EXEC = 0x20  # 6.3: the x bits stay as they are
