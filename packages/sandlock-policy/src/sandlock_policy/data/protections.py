"""What a sandbox protects, under the names that `allow_degraded`, `disable` and results use."""

from __future__ import annotations

__all__ = ["ALIASES", "PROTECTIONS"]

# name -> (what it is, whether `disable` may name it, whether `allow_degraded` may name it).
# What may not be switched off is what the promise of the sandbox consists of; a wider grant says it better.
PROTECTIONS: dict[str, tuple[str, bool, bool]] = {
    "fs_access": ("files are opened, made and removed only where a grant says so", True, True),
    "fs_refer": ("files are linked and renamed across directories only below write grants", True, True),
    "fs_truncate": ("files are truncated only below write grants", True, True),
    "fs_ioctl_dev": ("devices are controlled with ioctl only below write grants", True, True),
    "fs_metadata": ("mode, owner, times and attributes of files change only below write grants", True, False),
    "net_tcp": ("TCP reaches and binds only the ports that a rule names", True, True),
    "net_sockets": ("sockets of no other family and protocol can be made", False, False),
    "net_listen": ("nothing listens on a port that no rule names", False, True),
    "unix_sockets": ("no Unix socket reaches out of the sandbox", True, False),
    "scope_abstract": ("abstract Unix sockets of the outside cannot be reached", True, True),
    "scope_signal": ("processes outside cannot be signalled", True, True),
    "syscalls": ("calls that nobody inside needs are refused", False, False),
    "tree_kill": ("every process of the sandbox ends with it", False, False),
}

ALIASES: dict[str, str] = {"ioctl_dev": "fs_ioctl_dev"}
