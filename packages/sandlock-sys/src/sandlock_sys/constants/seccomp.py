"""Seccomp: filter flags, return actions and notification flags (linux/seccomp.h)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = ["Action", "AddFd", "FilterFlag", "ListenerFlag", "ResponseFlag"]


class FilterFlag(IntFlag):
    """SECCOMP_FILTER_FLAG_*."""

    TSYNC = 1 << 0  # 3.17
    LOG = 1 << 1  # 4.14
    SPEC_ALLOW = 1 << 2  # 4.17
    NEW_LISTENER = 1 << 3  # 5.0
    TSYNC_ESRCH = 1 << 4  # 5.7
    WAIT_KILLABLE_RECV = 1 << 5  # 5.19


class Action(IntEnum):
    """SECCOMP_RET_*: what a filter's return value makes of the call; data go into the low 16 bits."""

    KILL_THREAD = 0x0000_0000  # 3.5
    TRAP = 0x0003_0000  # 3.5
    ERRNO = 0x0005_0000  # 3.5
    USER_NOTIF = 0x7FC0_0000  # 5.0
    TRACE = 0x7FF0_0000  # 3.5
    LOG = 0x7FFC_0000  # 4.14
    ALLOW = 0x7FFF_0000  # 3.5
    KILL_PROCESS = 0x8000_0000  # 4.14


class ResponseFlag(IntFlag):
    """SECCOMP_USER_NOTIF_FLAG_*: flags of an answer."""

    CONTINUE = 1 << 0  # 5.5


class AddFd(IntFlag):
    """SECCOMP_ADDFD_FLAG_*."""

    SETFD = 1 << 0  # 5.9
    SEND = 1 << 1  # 5.14


class ListenerFlag(IntFlag):
    """SECCOMP_USER_NOTIF_FD_*: flags of a listener."""

    SYNC_WAKE_UP = 1 << 0  # 6.6
