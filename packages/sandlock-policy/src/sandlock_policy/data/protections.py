"""What a sandbox protects, under the names that `allow_degraded`, `disable` and results use."""

from __future__ import annotations

__all__ = ["ALIASES", "PROTECTIONS"]

# name -> (what it is, whether `disable` may name it).
# What may not be switched off is what the promise of the sandbox consists of; a wider grant says it better.
PROTECTIONS: dict[str, tuple[str, bool]] = {
    "fs_access": ("files are opened, made and removed only where a grant says so", True),
    "fs_refer": ("files are linked and renamed across directories only below write grants", True),
    "fs_truncate": ("files are truncated only below write grants", True),
    "fs_ioctl_dev": ("devices are controlled with ioctl only below write grants", True),
    "fs_metadata": ("mode, owner, times and attributes of files change only below write grants", True),
    "net_tcp": ("TCP reaches and binds only the ports that a rule names", True),
    "net_sockets": ("sockets of no other family and protocol can be made", False),
    "net_listen": ("nothing listens on a port that no rule names", False),
    "unix_sockets": ("no Unix socket reaches out of the sandbox", True),
    "scope_abstract": ("abstract Unix sockets of the outside cannot be reached", True),
    "scope_signal": ("processes outside cannot be signalled", True),
    "syscalls": ("calls that nobody inside needs are refused", False),
    "tree_kill": ("every process of the sandbox ends with it", False),
}

ALIASES: dict[str, str] = {"ioctl_dev": "fs_ioctl_dev"}
