"""ptrace: options, events and register sets (linux/ptrace.h, linux/elf.h), and wait options (linux/wait.h)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = ["Event", "Option", "RegisterSet", "WaitOption"]


class Option(IntFlag):
    """PTRACE_O_*."""

    TRACESYSGOOD = 1 << 0  # 2.4.6
    TRACEFORK = 1 << 1  # 2.5.46
    TRACEVFORK = 1 << 2  # 2.5.46
    TRACECLONE = 1 << 3  # 2.5.46
    TRACEEXEC = 1 << 4  # 2.5.46
    TRACEVFORKDONE = 1 << 5  # 2.5.60
    TRACEEXIT = 1 << 6  # 2.5.60
    TRACESECCOMP = 1 << 7  # 3.5
    EXITKILL = 1 << 20  # 3.8
    SUSPEND_SECCOMP = 1 << 21  # 4.3, CAP_SYS_ADMIN and CONFIG_CHECKPOINT_RESTORE


class Event(IntEnum):
    """PTRACE_EVENT_*."""

    FORK = 1  # 2.5.46
    VFORK = 2  # 2.5.46
    CLONE = 3  # 2.5.46
    EXEC = 4  # 2.5.46
    VFORK_DONE = 5  # 2.5.60
    EXIT = 6  # 2.5.60
    SECCOMP = 7  # 3.5
    STOP = 128  # 3.1


class RegisterSet(IntEnum):
    """NT_*: register sets for PTRACE_GETREGSET."""

    PRSTATUS = 1  # 2.6.34: the general registers
    PRFPREG = 2  # 2.6.34: floating point
    X86_XSTATE = 0x202  # 2.6.35: the whole xsave area
    X86_SHSTK = 0x204  # 6.6: shadow stack pointer
    ARM_TLS = 0x401  # 3.7
    ARM_SYSTEM_CALL = 0x404  # 3.18
    ARM_SVE = 0x405  # 4.15
    ARM_PAC_MASK = 0x406  # 5.0
    ARM_SSVE = 0x40B  # 5.19
    ARM_ZA = 0x40C  # 5.19
    RISCV_VECTOR = 0x901  # 6.5


class WaitOption(IntFlag):
    """W* and __W*: options of wait4(2)."""

    NOHANG = 1
    UNTRACED = 2
    CONTINUED = 8  # 2.6.10
    NOTHREAD = 0x2000_0000  # 2.4
    ALL = 0x4000_0000  # 2.4: __WALL
