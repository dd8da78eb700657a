"""Landlock: rights, scopes and flags (linux/landlock.h)."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["AccessFs", "AccessNet", "CreateRuleset", "Erratum", "RestrictSelf", "Scope"]


class AccessFs(IntFlag):
    """LANDLOCK_ACCESS_FS_*: what may be done with files and directories."""

    EXECUTE = 1 << 0  # 5.13, ABI 1
    WRITE_FILE = 1 << 1  # 5.13
    READ_FILE = 1 << 2  # 5.13
    READ_DIR = 1 << 3  # 5.13
    REMOVE_DIR = 1 << 4  # 5.13
    REMOVE_FILE = 1 << 5  # 5.13
    MAKE_CHAR = 1 << 6  # 5.13
    MAKE_DIR = 1 << 7  # 5.13
    MAKE_REG = 1 << 8  # 5.13
    MAKE_SOCK = 1 << 9  # 5.13
    MAKE_FIFO = 1 << 10  # 5.13
    MAKE_BLOCK = 1 << 11  # 5.13
    MAKE_SYM = 1 << 12  # 5.13
    REFER = 1 << 13  # 5.19, ABI 2
    TRUNCATE = 1 << 14  # 6.2, ABI 3
    IOCTL_DEV = 1 << 15  # 6.10, ABI 5
    RESOLVE_UNIX = 1 << 16  # 7.1, ABI 9


class AccessNet(IntFlag):
    """LANDLOCK_ACCESS_NET_*: what may be done with ports."""

    BIND_TCP = 1 << 0  # 6.7, ABI 4
    CONNECT_TCP = 1 << 1  # 6.7, ABI 4
    BIND_UDP = 1 << 2  # 7.2, ABI 10
    CONNECT_SEND_UDP = 1 << 3  # 7.2, ABI 10


class Scope(IntFlag):
    """LANDLOCK_SCOPE_*: what may not reach out of the domain."""

    ABSTRACT_UNIX_SOCKET = 1 << 0  # 6.12, ABI 6
    SIGNAL = 1 << 1  # 6.12, ABI 6


class CreateRuleset(IntFlag):
    """LANDLOCK_CREATE_RULESET_*: questions that landlock_create_ruleset(2) answers instead of making a ruleset."""

    VERSION = 1 << 0  # 5.13
    ERRATA = 1 << 1  # 6.15


class Erratum(IntFlag):
    """Fixed bugs, as `landlock.errata()` reports them (Documentation/userspace-api/landlock.rst)."""

    TCP_SOCKET_IDENTIFICATION = 1 << 0  # 6.15: non-TCP stream protocols are no longer taken for TCP
    SCOPED_SIGNAL_HANDLING = 1 << 1  # 6.15: threads of one process may signal each other
    DISCONNECTED_DIRECTORY_HANDLING = 1 << 2  # 6.19 and stable releases: bind mounts do not lose their rules


class RestrictSelf(IntFlag):
    """LANDLOCK_RESTRICT_SELF_*: flags of landlock_restrict_self(2)."""

    LOG_SAME_EXEC_OFF = 1 << 0  # 6.15, ABI 7
    LOG_NEW_EXEC_ON = 1 << 1  # 6.15, ABI 7
    LOG_SUBDOMAINS_OFF = 1 << 2  # 6.15, ABI 7
    TSYNC = 1 << 3  # 7.0, ABI 8
