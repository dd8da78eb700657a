"""What Docker's default seccomp profile does to an unprivileged container, as rules of a seccomp filter.

Facts of https://github.com/moby/profiles, seccomp/default.json (commit 190fa92c), turned round: that file lists what is
allowed and answers EPERM to the rest; here is the rest, among the calls that sandlock_arch knows, for a container
with Docker's default capabilities on a kernel from 4.8 on. Its documentation is
https://docs.docker.com/engine/security/seccomp/. Podman's and containerd's profiles descend from the same file.

Not here, since none of it is seccomp: the AppArmor profile, the masked places in /proc, the read-only /sys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandlock_policy.seccomp.rules import ABSENT, DENY, FilterSpec, Rule, has_bits, not_one_of, one_of

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["CAPABILITIES", "REFUSED", "SYS_PTRACE", "WITH_SYS_PTRACE", "profile"]

# Allowed only with a capability that a container has not (SYS_ADMIN, SYS_PTRACE, SYS_NICE, ...), or never.
REFUSED = {
    "namespaces and mounts": "fsconfig fsmount fsopen fspick listns lsm_get_self_attr lsm_list_modules "
    "lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr pivot_root setdomainname sethostname "
    "setns umount2 unshare",
    "other processes": "kcmp migrate_pages move_pages pidfd_getfd process_madvise",
    "memory placement": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node userfaultfd",
    "asynchronous calls": "io_uring_enter io_uring_register io_uring_setup",
    "files by handle": "fanotify_init file_getattr file_setattr open_by_handle_at",
    "the machine": "acct bpf clock_settime delete_module finit_module init_module ioperm iopl kexec_file_load "
    "kexec_load lookup_dcookie perf_event_open quotactl quotactl_fd reboot settimeofday swapoff swapon sysfs syslog "
    "uprobe ustat vhangup",
}
NEW_NAMESPACES = 0x7E020000  # CLONE_NEW* of clone(2), time and network included (linux/sched.h)
VSOCK = 40  # AF_VSOCK, linux/socket.h
PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)  # PER_LINUX, PER_LINUX32, with UNAME26, and "tell"

# What dockerd leaves to uid 0 of a container (moby/moby, oci/caps/defaults.go): numbers of linux/capability.h.
CAPABILITIES = {
    "chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "kill": 5, "setgid": 6, "setuid": 7, "setpcap": 8,
    "net_bind_service": 10, "net_raw": 13, "sys_chroot": 18, "mknod": 27, "audit_write": 29, "setfcap": 31,
}  # fmt: skip

SYS_PTRACE = 19  # linux/capability.h
WITH_SYS_PTRACE = ("kcmp", "pidfd_getfd", "process_madvise")  # what the profile adds for a container that has it


def profile(allowed: Collection[str] = ()) -> FilterSpec:
    """The filter; calls of `allowed` are let pass as well."""
    return FilterSpec(
        rules=(
            *(
                Rule(name, (), DENY, reason)
                for reason, names in REFUSED.items()
                for name in names.split()
                if name not in allowed
            ),
            Rule("clone3", (), ABSENT, "its flags are in memory, where no filter sees them"),
            Rule("clone", (has_bits(0, NEW_NAMESPACES),), DENY, "a new namespace"),
            Rule("socket", (one_of(0, VSOCK),), DENY, "the hypervisor's sockets"),
            Rule("personality", (not_one_of(0, *PERSONALITIES),), DENY, "an unusual personality"),
        ),
        unreviewed=DENY,
    )
