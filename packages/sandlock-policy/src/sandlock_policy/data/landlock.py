"""Landlock's rights, each with the ABI and the kernel that brought it (linux/landlock.h)."""

from __future__ import annotations

__all__ = [
    "FS_EXECUTE",
    "FS_IOCTL_DEV",
    "FS_MAKE_BLOCK",
    "FS_MAKE_CHAR",
    "FS_READ_DIR",
    "FS_READ_FILE",
    "FS_REFER",
    "FS_RIGHTS",
    "FS_TRUNCATE",
    "FS_WRITE_FILE",
    "NET_BIND_TCP",
    "NET_CONNECT_TCP",
    "NET_RIGHTS",
    "NEVER",
    "READ",
    "SCOPES",
    "SCOPE_ABSTRACT_UNIX_SOCKET",
    "SCOPE_SIGNAL",
]

# name -> (bit, ABI, kernel)
FS_RIGHTS: dict[str, tuple[int, int, str]] = {
    "execute": (1 << 0, 1, "5.13"),
    "write_file": (1 << 1, 1, "5.13"),
    "read_file": (1 << 2, 1, "5.13"),
    "read_dir": (1 << 3, 1, "5.13"),
    "remove_dir": (1 << 4, 1, "5.13"),
    "remove_file": (1 << 5, 1, "5.13"),
    "make_char": (1 << 6, 1, "5.13"),
    "make_dir": (1 << 7, 1, "5.13"),
    "make_reg": (1 << 8, 1, "5.13"),
    "make_sock": (1 << 9, 1, "5.13"),
    "make_fifo": (1 << 10, 1, "5.13"),
    "make_block": (1 << 11, 1, "5.13"),
    "make_sym": (1 << 12, 1, "5.13"),
    "refer": (1 << 13, 2, "5.19"),
    "truncate": (1 << 14, 3, "6.2"),
    "ioctl_dev": (1 << 15, 5, "6.10"),
}

NET_RIGHTS: dict[str, tuple[int, int, str]] = {
    "bind_tcp": (1 << 0, 4, "6.7"),
    "connect_tcp": (1 << 1, 4, "6.7"),
}

SCOPES: dict[str, tuple[int, int, str]] = {
    "abstract_unix_socket": (1 << 0, 6, "6.12"),
    "signal": (1 << 1, 6, "6.12"),
}

FS_EXECUTE = 1 << 0  # LANDLOCK_ACCESS_FS_EXECUTE, ABI 1, 5.13
FS_WRITE_FILE = 1 << 1  # LANDLOCK_ACCESS_FS_WRITE_FILE, ABI 1, 5.13
FS_READ_FILE = 1 << 2  # LANDLOCK_ACCESS_FS_READ_FILE, ABI 1, 5.13
FS_READ_DIR = 1 << 3  # LANDLOCK_ACCESS_FS_READ_DIR, ABI 1, 5.13
FS_MAKE_CHAR = 1 << 6  # LANDLOCK_ACCESS_FS_MAKE_CHAR, ABI 1, 5.13
FS_MAKE_BLOCK = 1 << 11  # LANDLOCK_ACCESS_FS_MAKE_BLOCK, ABI 1, 5.13
FS_REFER = 1 << 13  # LANDLOCK_ACCESS_FS_REFER, ABI 2, 5.19; where it is absent or not handled, it is denied
FS_TRUNCATE = 1 << 14  # LANDLOCK_ACCESS_FS_TRUNCATE, ABI 3, 6.2
FS_IOCTL_DEV = 1 << 15  # LANDLOCK_ACCESS_FS_IOCTL_DEV, ABI 5, 6.10

NET_BIND_TCP = 1 << 0  # LANDLOCK_ACCESS_NET_BIND_TCP, ABI 4, 6.7
NET_CONNECT_TCP = 1 << 1  # LANDLOCK_ACCESS_NET_CONNECT_TCP, ABI 4, 6.7

SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0  # LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, ABI 6, 6.12
SCOPE_SIGNAL = 1 << 1  # LANDLOCK_SCOPE_SIGNAL, ABI 6, 6.12

READ = FS_EXECUTE | FS_READ_FILE | FS_READ_DIR  # what `filesystem.read` grants

# What no write grant gives: a device node opens a device past every path rule, and the node 0:0, which needs no
# capability since 5.8, is a whiteout that hides a file from whoever mounts the directory as an overlay.
NEVER = FS_MAKE_CHAR | FS_MAKE_BLOCK
