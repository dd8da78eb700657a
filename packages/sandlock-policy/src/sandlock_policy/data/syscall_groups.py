"""What a sandboxed program may not call, and why: every denied system call and every denied argument value.

A group is what `extra_allow_syscalls` and `extra_deny_syscalls` may name. It denies whole calls (`calls`: name ->
reason) and calls with certain arguments (`rules`, tried in order). Names that only some architectures have stand here
too and are passed over elsewhere. Numbers of ioctls and flags carry the header they come from; they are the
asm-generic ones, which x86_64, aarch64 and riscv64 share.
"""

from __future__ import annotations

from sandlock_policy.data.network_rules import NETWORK_GROUPS
from sandlock_policy.data.older_kernels import OLDER_GROUPS
from sandlock_policy.seccomp.rules import (
    ABSENT,
    DENY,
    Group,
    Rule,
    between,
    errno_action,
    has_bits,
    not_one_of,
    one_of,
)

__all__ = ["ALWAYS", "GROUPS"]

_ENOTTY = errno_action(25)  # asm-generic/errno-base.h

# CLONE_NEWNS 0x20000, NEWCGROUP 0x2000000, NEWUTS 0x4000000, NEWIPC 0x8000000, NEWUSER 0x10000000, NEWPID 0x20000000,
# NEWNET 0x40000000: linux/sched.h. CLONE_NEWTIME (0x80) lies in the exit signal of clone(2) and means nothing there.
_CLONE_NEW = 0x7E020000
_CLONE_PARENT = 0x8000  # linux/sched.h
_UNSHARE_HARMLESS = 0x40600  # CLONE_FS 0x200, CLONE_FILES 0x400, CLONE_SYSVSEM 0x40000, linux/sched.h

_NOT_ITSELF = (not_one_of(0, 0),)  # a pid that is not 0

_CREATES = 0o100 | 0x400000  # O_CREAT, __O_TMPFILE: asm-generic/fcntl.h

_IOCTL = "ioctl"
_PRCTL = "prctl"


def _other_process(call: str, reason: str) -> Rule:
    return Rule(call, _NOT_ITSELF, DENY, reason)


GROUPS: dict[str, Group] = {
    "namespaces": Group(
        "a new user namespace gives all capabilities in it, and with them most of the kernel to attack",
        {
            "clone3": "its flags lie in memory, where a filter cannot read them; libc falls back to clone on ENOSYS",
        },
        (
            Rule("clone", (has_bits(0, _CLONE_NEW),), DENY, "CLONE_NEW*: new namespaces"),
            Rule("clone", (has_bits(0, _CLONE_PARENT),), DENY, "CLONE_PARENT: a child for the host process"),
            Rule(
                "unshare",
                (has_bits(0, 0xFFFFFFFF & ~_UNSHARE_HARMLESS),),
                DENY,
                "all but FS, FILES and SYSVSEM",
            ),
            Rule("setns", (), DENY, "would enter a namespace made outside"),
        ),
        action=ABSENT,
    ),
    "mount": Group(
        "changes what paths mean, under the feet of every rule on paths",
        {
            "mount": "mounts a file system",
            "umount2": "uncovers what a mount hides",
            "pivot_root": "changes the root of the namespace",
            "chroot": "changes the root that paths start from",
            "fsopen": "mount API of 5.2",
            "fsconfig": "mount API of 5.2",
            "fsmount": "mount API of 5.2",
            "fspick": "mount API of 5.2: reconfigures a mounted file system",
            "open_tree": "mount API of 5.2: copies a mount tree",
            "open_tree_attr": "mount API of 6.15: copies a mount tree with other flags",
            "move_mount": "mount API of 5.2: attaches a mount",
            "mount_setattr": "mount API of 5.12: changes mount flags",
        },
    ),
    "host_view": Group(
        "tells what the host is made of (INF-03); ENOSYS sends callers to /proc, where Landlock decides",
        {
            "statmount": "describes mounts of the host",
            "listmount": "lists mounts of the host",
            "listns": "lists namespaces of the host",
        },
        (
            # linux/pidfd.h, 6.13: _IOWR(0xFF, 11, ...) of any size; before it the kernel answered ENOTTY.
            Rule(_IOCTL, (one_of(1, 0xFF0B, mask=0xFFFF),), _ENOTTY, "PIDFD_GET_INFO: describes processes outside"),
        ),
        action=ABSENT,
    ),
    "io_uring": Group(
        "a second way into most system calls, which no filter sees (SEC-06)",
        {
            "io_uring_setup": "makes a ring",
            "io_uring_enter": "submits to a ring that was inherited",
            "io_uring_register": "attaches files to a ring that was inherited",
        },
        action=ABSENT,
    ),
    "bpf": Group("loads programs into the kernel", {"bpf": "programs, maps and links of the kernel"}),
    "perf": Group(
        "observes the kernel and other processes; a large surface",
        {
            "perf_event_open": "counters and tracepoints, of all processes where perf_event_paranoid is low",
            "lookup_dcookie": "names behind cookies of the old profiler",
        },
    ),
    "userfaultfd": Group(
        "lets a program stall whoever touches its memory, the kernel and the supervisor included",
        {"userfaultfd": "page faults answered by the program"},
    ),
    "modules": Group(
        "puts code into the kernel",
        {"init_module": "loads a module", "finit_module": "loads a module", "delete_module": "unloads a module"},
    ),
    "reboot": Group(
        "ends or replaces the running kernel",
        {
            "reboot": "also switches Ctrl-Alt-Del",
            "kexec_load": "stages another kernel",
            "kexec_file_load": "stages another kernel",
        },
    ),
    "host_admin": Group(
        "changes the host for everybody; what matters here is a caller that is root",
        {
            "swapon": "adds swap space",
            "swapoff": "removes swap space",
            "acct": "writes process accounting to a file",
            "quotactl": "disk quotas of all users",
            "quotactl_fd": "disk quotas of all users",
            "sethostname": "renames the host",
            "setdomainname": "renames the NIS domain",
            "vhangup": "hangs up the terminal of the caller",
            "syslog": "reads and clears the kernel log",
            "lsm_get_self_attr": "labels of security modules",
            "lsm_set_self_attr": "changes the label the process runs under",
            "lsm_list_modules": "which security modules the host runs",
        },
        (
            Rule(_IOCTL, (one_of(1, 0xC0045877),), DENY, "FIFREEZE: stops a file system"),  # linux/fs.h
            Rule(_IOCTL, (one_of(1, 0xC0045878),), DENY, "FITHAW: goes with FIFREEZE"),  # linux/fs.h
            Rule(_IOCTL, (one_of(1, 0xC0185879),), DENY, "FITRIM: discards blocks"),  # linux/fs.h
            Rule(_IOCTL, (one_of(1, 0x8004587D),), DENY, "FS_IOC_SHUTDOWN: stops a file system"),  # ext4, xfs
        ),
    ),
    "clock_set": Group(
        "sets the clock of the host",
        {
            "settimeofday": "sets the wall clock",
            "clock_settime": "sets a clock",
            "clock_adjtime": "steers a clock; its mode lies in memory, so reading is refused with it",
            "adjtimex": "steers the wall clock; its mode lies in memory, so reading is refused with it",
        },
    ),
    "hardware": Group(
        "speaks to devices or to the descriptor tables of the processor",
        {
            "ioperm": "port input and output",
            "iopl": "port input and output, interrupts",
            "modify_ldt": "segments for 16-bit code; a source of kernel faults",
        },
    ),
    "legacy": Group(
        "nobody needs it any more",
        {"sysfs": "numbers of file system types", "ustat": "free space by device number, past every path rule"},
    ),
    "file_handles": Group(
        "opens files by number, past every path rule (FS-11)",
        {
            "open_by_handle_at": "opens any inode of a file system",
            "name_to_handle_at": "gives the numbers, and the mount a path is on",
        },
    ),
    "fanotify": Group(
        "watches, and may hold up, what others do to files",
        {"fanotify_init": "makes a watch group", "fanotify_mark": "watches whole file systems"},
    ),
    "ptrace": Group(
        "reads and steers other processes; Landlock keeps it to the sandbox's own, so debuggers may be let in",
        {
            "ptrace": "debugging",
            "process_vm_readv": "reads the memory of another process",
            "process_vm_writev": "writes the memory of another process",
            "kcmp": "compares kernel objects of two processes",
            "pidfd_getfd": "takes a file descriptor out of another process",
        },
        (
            Rule(
                _PRCTL,
                (one_of(0, 0x59616D61),),
                DENY,
                "PR_SET_PTRACER: lets an outsider trace",  # linux/prctl.h, 3.4
            ),
        ),
        allowable=True,
    ),
    "foreign_memory": Group(
        "changes how the memory of another process is kept",
        {
            "process_madvise": "pages out memory of another process",
            "process_mrelease": "frees memory of a dying process",
        },
        (
            _other_process("move_pages", "moves pages of another process"),
            _other_process("migrate_pages", "moves pages of another process"),
        ),
    ),
    "secret_memory": Group(
        "memory that neither the supervisor nor a checkpoint can read; ENOSYS, as on kernels without it",
        {"memfd_secret": "secret memory"},
        allowable=True,
        action=ABSENT,
    ),
    "sysv_ipc": Group(
        "System V IPC has no paths and no owner but the user: shared with every process outside (LL-21)",
        {
            "shmget": "shared memory by number",
            "shmat": "shared memory by number",
            "shmdt": "shared memory by number",
            "shmctl": "shared memory by number",
            "msgget": "message queues by number",
            "msgsnd": "message queues by number",
            "msgrcv": "message queues by number",
            "msgctl": "message queues by number",
            "semget": "semaphores by number",
            "semop": "semaphores by number",
            "semctl": "semaphores by number",
            "semtimedop": "semaphores by number",
        },
        allowable=True,
    ),
    "posix_mq": Group(
        "POSIX message queues have names of their own, past every path rule (LL-21)",
        {
            "mq_open": "opens a queue by name",
            "mq_unlink": "removes a queue by name",
            "mq_timedsend": "sends to a queue",
            "mq_timedreceive": "receives from a queue",
            "mq_notify": "waits for a message",
            "mq_getsetattr": "attributes of a queue",
        },
        allowable=True,
    ),
    "keyrings": Group(
        "keys are shared with the user's session outside (LL-21)",
        {
            "add_key": "adds a key",
            "request_key": "finds a key, or has a program on the host make it",
            "keyctl": "everything else with keys",
        },
        allowable=True,
    ),
    "personality": Group(
        "changes how the process is laid out and which faults it survives",
        {},
        (
            # Linux programs ask for the current one with 0xffffffff, and set PER_LINUX, 0, to undo a parent's setarch.
            Rule("personality", (not_one_of(0, 0, 0xFFFFFFFF),), DENY, "all but asking, and PER_LINUX"),
        ),
        allowable=True,
    ),
    "scheduling": Group(
        "slows or pins processes of the same user outside, the caller included (NOT-18): only with pid 0, the caller",
        {},
        (
            _other_process("sched_setaffinity", "processors of another thread"),
            _other_process("sched_setscheduler", "policy of another thread"),
            _other_process("sched_setparam", "priority of another thread"),
            _other_process("sched_setattr", "policy of another thread"),
            Rule("setpriority", (not_one_of(0, 0),), DENY, "PRIO_PGRP and PRIO_USER"),
            Rule("setpriority", (not_one_of(1, 0),), DENY, "nice value of another thread"),
            Rule("ioprio_set", (not_one_of(0, 1),), DENY, "IOPRIO_WHO_PGRP and IOPRIO_WHO_USER"),
            Rule("ioprio_set", (not_one_of(1, 0),), DENY, "disk priority of another thread"),
        ),
        allowable=True,
    ),
    "limits": Group(
        "limits of another process (NOT-18)",
        {},
        (_other_process("prlimit64", "reads or sets limits of another process"),),
    ),
    "process_control": Group(
        "settings of the process that undo what the launch has set up",
        {},
        (
            Rule(_PRCTL, (one_of(0, 28),), DENY, "PR_SET_SECUREBITS: keeps capabilities"),  # linux/prctl.h, 2.6.26
            Rule(_PRCTL, (one_of(0, 35),), DENY, "PR_SET_MM: forges /proc/self/exe and maps"),  # linux/prctl.h, 3.3
        ),
    ),
    "terminal": Group(
        "acts on the caller's terminal or console (PR-01, PR-02)",
        {},
        (
            # asm-generic/ioctls.h
            Rule(_IOCTL, (one_of(1, 0x5412),), DENY, "TIOCSTI: types into the terminal"),
            Rule(_IOCTL, (one_of(1, 0x540A),), DENY, "TCXONC: stops the terminal's output"),
            Rule(_IOCTL, (one_of(1, 0x540C),), DENY, "TIOCEXCL: closes the terminal to its owner, for good"),
            Rule(_IOCTL, (one_of(1, 0x541C),), DENY, "TIOCLINUX: pastes on the console"),
            Rule(_IOCTL, (one_of(1, 0x541D),), DENY, "TIOCCONS: takes the console's output"),
            Rule(_IOCTL, (one_of(1, 0x5423),), DENY, "TIOCSETD: loads a line discipline"),
            Rule(_IOCTL, (one_of(1, 0x5437),), DENY, "TIOCVHANGUP: hangs up a terminal"),
            Rule(_IOCTL, (one_of(1, 0x5457),), DENY, "TIOCSLCKTRMIOS: locks terminal settings"),
            # linux/kd.h and linux/vt.h number theirs without direction and size, so these ranges hold nothing else.
            Rule(_IOCTL, (between(1, 0x4B00, 0x4BFF),), DENY, "KD*: keyboard map, font and mode of the console"),
            Rule(_IOCTL, (between(1, 0x5600, 0x56FF),), DENY, "VT_*: switches virtual consoles"),
        ),
    ),
    "leases": Group(
        "holds up whoever opens the file outside (FS-28)",
        {},
        (
            # linux/fcntl.h
            Rule("fcntl", (one_of(1, 1024),), DENY, "F_SETLEASE"),
            Rule("fcntl", (one_of(1, 1026),), DENY, "F_NOTIFY"),
            Rule("fcntl", (one_of(1, 1040),), DENY, "F_SETDELEG"),
        ),
    ),
    "whiteout": Group(
        "makes a device node that Landlock's rights do not cover (LL-18)",
        {},
        (Rule("renameat2", (has_bits(4, 0x4),), DENY, "RENAME_WHITEOUT"),),  # linux/fs.h, 3.18
    ),
    **NETWORK_GROUPS,
    "metadata": Group(
        "Landlock does not cover owner, mode, times, attributes and flags of files (LL-01, LL-02)",
        {
            "chmod": "mode",
            "fchmod": "mode",
            "fchmodat": "mode",
            "fchmodat2": "mode",
            "chown": "owner",
            "lchown": "owner",
            "fchown": "owner",
            "fchownat": "owner",
            "utime": "times",
            "utimes": "times",
            "futimesat": "times",
            "utimensat": "times",
            "setxattr": "extended attributes",
            "lsetxattr": "extended attributes",
            "fsetxattr": "extended attributes",
            "setxattrat": "extended attributes",
            "removexattr": "extended attributes",
            "lremovexattr": "extended attributes",
            "fremovexattr": "extended attributes",
            "removexattrat": "extended attributes",
            "file_setattr": "inode flags",
        },
        (
            # linux/fs.h and linux/msdos_fs.h; these work through a descriptor opened for reading.
            Rule(_IOCTL, (one_of(1, 0x40086602),), DENY, "FS_IOC_SETFLAGS"),
            Rule(_IOCTL, (one_of(1, 0x40046602),), DENY, "FS_IOC32_SETFLAGS"),
            Rule(_IOCTL, (one_of(1, 0x40087602),), DENY, "FS_IOC_SETVERSION"),
            Rule(_IOCTL, (one_of(1, 0x40047602),), DENY, "FS_IOC32_SETVERSION"),
            Rule(_IOCTL, (one_of(1, 0x401C5820),), DENY, "FS_IOC_FSSETXATTR"),
            Rule(_IOCTL, (one_of(1, 0x40047211),), DENY, "FAT_IOCTL_SET_ATTRIBUTES"),
            Rule(_IOCTL, (one_of(1, 0x40806685),), DENY, "FS_IOC_ENABLE_VERITY"),
            Rule(_IOCTL, (one_of(1, 0x800C6613),), DENY, "FS_IOC_SET_ENCRYPTION_POLICY"),
            # linux/btrfs.h: the nodes of subvolumes; FICLONE and its kin share their type and stay.
            Rule(_IOCTL, (one_of(1, 0x50009401, 0x50009417),), DENY, "BTRFS_IOC_SNAP_CREATE"),
            Rule(_IOCTL, (one_of(1, 0x5000940E, 0x50009418),), DENY, "BTRFS_IOC_SUBVOL_CREATE"),
            Rule(_IOCTL, (one_of(1, 0x5000940F, 0x5000943F),), DENY, "BTRFS_IOC_SNAP_DESTROY"),
            Rule(_IOCTL, (one_of(1, 0x4008941A, 0x40089413),), DENY, "BTRFS_IOC_SUBVOL_SETFLAGS, DEFAULT_SUBVOL"),
        ),
    ),
    **OLDER_GROUPS,
    # Behind `metadata`, which refuses the same calls whatever their mode.
    "setuid": Group(
        "leaves a program behind that others run with the rights of who ran the sandbox",
        {"openat2": "its mode is in memory that a filter cannot see"},
        (
            # S_ISUID | S_ISGID, linux/stat.h; of the open family only where O_CREAT or O_TMPFILE makes the mode count.
            Rule("chmod", (has_bits(1, 0o6000),), DENY, "a mode with setuid or setgid"),
            Rule("fchmod", (has_bits(1, 0o6000),), DENY, "a mode with setuid or setgid"),
            Rule("fchmodat", (has_bits(2, 0o6000),), DENY, "a mode with setuid or setgid"),
            Rule("fchmodat2", (has_bits(2, 0o6000),), DENY, "a mode with setuid or setgid"),
            Rule("creat", (has_bits(1, 0o6000),), DENY, "a mode with setuid or setgid"),
            Rule("open", (has_bits(1, _CREATES), has_bits(2, 0o6000)), DENY, "a mode with setuid or setgid"),
            Rule("openat", (has_bits(2, _CREATES), has_bits(3, 0o6000)), DENY, "a mode with setuid or setgid"),
            Rule("mknod", (has_bits(1, 0o6000),), DENY, "a mode with setuid or setgid"),
            Rule("mknodat", (has_bits(2, 0o6000),), DENY, "a mode with setuid or setgid"),
        ),
        action=ABSENT,
    ),
}

# Denied unless lifted; the others only where no other layer protects what they protect.
ALWAYS: tuple[str, ...] = tuple([name for name in GROUPS if name not in ("metadata", *OLDER_GROUPS)])
