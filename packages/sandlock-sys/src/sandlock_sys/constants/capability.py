"""Capabilities (linux/capability.h)."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Capability"]


class Capability(IntEnum):
    """CAP_*: bit numbers in the sets of `prctl.get_capabilities`."""

    CHOWN = 0  # 2.2
    DAC_OVERRIDE = 1  # 2.2
    DAC_READ_SEARCH = 2  # 2.2
    FOWNER = 3  # 2.2
    FSETID = 4  # 2.2
    KILL = 5  # 2.2
    SETGID = 6  # 2.2
    SETUID = 7  # 2.2
    SETPCAP = 8  # 2.2
    LINUX_IMMUTABLE = 9  # 2.2
    NET_BIND_SERVICE = 10  # 2.2
    NET_BROADCAST = 11  # 2.2
    NET_ADMIN = 12  # 2.2
    NET_RAW = 13  # 2.2
    IPC_LOCK = 14  # 2.2
    IPC_OWNER = 15  # 2.2
    SYS_MODULE = 16  # 2.2
    SYS_RAWIO = 17  # 2.2
    SYS_CHROOT = 18  # 2.2
    SYS_PTRACE = 19  # 2.2
    SYS_PACCT = 20  # 2.2
    SYS_ADMIN = 21  # 2.2
    SYS_BOOT = 22  # 2.2
    SYS_NICE = 23  # 2.2
    SYS_RESOURCE = 24  # 2.2
    SYS_TIME = 25  # 2.2
    SYS_TTY_CONFIG = 26  # 2.2
    MKNOD = 27  # 2.4
    LEASE = 28  # 2.4
    AUDIT_WRITE = 29  # 2.6.11
    AUDIT_CONTROL = 30  # 2.6.11
    SETFCAP = 31  # 2.6.24
    MAC_OVERRIDE = 32  # 2.6.25
    MAC_ADMIN = 33  # 2.6.25
    SYSLOG = 34  # 2.6.37
    WAKE_ALARM = 35  # 3.0
    BLOCK_SUSPEND = 36  # 3.5
    AUDIT_READ = 37  # 3.16
    PERFMON = 38  # 5.8
    BPF = 39  # 5.8
    CHECKPOINT_RESTORE = 40  # 5.9
