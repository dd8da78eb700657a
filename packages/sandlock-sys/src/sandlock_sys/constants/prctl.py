"""prctl and personality: values and flags (linux/prctl.h, linux/personality.h)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = ["Dumpable", "Personality", "TimeStampCounter"]


class Dumpable(IntEnum):
    """Values of PR_SET_DUMPABLE (linux/sched/coredump.h)."""

    NO = 0  # 2.3.20
    YES = 1  # 2.3.20
    ROOT_ONLY = 2  # 2.6.13, set by the kernel alone


class TimeStampCounter(IntEnum):
    """PR_TSC_*."""

    ENABLE = 1  # 2.6.26
    SIGSEGV = 2  # 2.6.26


class Personality(IntFlag):
    """Flags of personality(2) that a 64-bit program meets."""

    UNAME26 = 0x0020000  # 3.1
    ADDR_NO_RANDOMIZE = 0x0040000  # 2.6.12
    READ_IMPLIES_EXEC = 0x0400000  # 2.6.8
