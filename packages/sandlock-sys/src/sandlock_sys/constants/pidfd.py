"""Pidfds: flags (linux/pidfd.h)."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["OpenFlag", "SignalFlag"]


class OpenFlag(IntFlag):
    """PIDFD_*: flags of pidfd_open(2)."""

    THREAD = 0o200  # 6.9: O_EXCL, the same number on x86-64, arm64 and riscv64
    NONBLOCK = 0o4000  # 5.10: O_NONBLOCK, likewise


class SignalFlag(IntFlag):
    """PIDFD_SIGNAL_*: whom pidfd_send_signal(2) reaches."""

    THREAD = 1 << 0  # 6.9
    THREAD_GROUP = 1 << 1  # 6.9
    PROCESS_GROUP = 1 << 2  # 6.9
