"""What the default filter answers, on all three architectures, by simulation. The names carry the catalogue's ids."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

import sandlock_arch
from sandlock_policy.data.syscall_groups import ALWAYS, GROUPS
from sandlock_policy.errors import PolicyError
from sandlock_policy.seccomp.default import default_spec
from sandlock_policy.seccomp.filter import check_names, compile_filter, describe_filter
from sandlock_policy.seccomp.names import known_syscalls
from sandlock_policy.seccomp.opcodes import RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS
from sandlock_policy.seccomp.options import FilterOptions
from sandlock_policy.seccomp.simulate import Verdict, simulate
from sandlock_policy.seccomp.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_arch import Architecture

ARCHITECTURES = [sandlock_arch.get(name) for name in sandlock_arch.names()]
ALLOW = RET_ALLOW
EPERM = RET_ERRNO | errno.EPERM
EACCES = RET_ERRNO | errno.EACCES
ENOSYS = RET_ERRNO | errno.ENOSYS
EAFNOSUPPORT = RET_ERRNO | errno.EAFNOSUPPORT
EOPNOTSUPP = RET_ERRNO | errno.EOPNOTSUPP

HIGH_WORDS = (0, 1, 0xFFFFFFFF)


@pytest.fixture(params=ARCHITECTURES, ids=lambda arch: arch.name)
def arch(request: pytest.FixtureRequest) -> Architecture:
    architecture: Architecture = request.param
    return architecture


@pytest.fixture
def ask(arch: Architecture) -> Callable[..., int]:
    """`ask(name, *arguments, **options)`: the action, for every value of the high words of the arguments the same."""

    def action(name: str, *arguments: int, **options: object) -> int:
        program = compile_filter(arch, FilterOptions(**options))  # type: ignore[arg-type]
        nr = arch.syscalls[name]
        actions = {
            simulate(
                program, nr=nr, arch=arch.audit_arch, arguments=[high << 32 | argument for argument in arguments]
            ).action
            for high in HIGH_WORDS
        }
        assert len(actions) == 1, f"{name} depends on high words"  # SEC-05
        return actions.pop()

    return action


# What bash, python, node, gcc, make, git, java, go, cargo, sqlite and tar are known to call.
ORDINARY = """
accept accept4 bind brk capget chdir clock_getres clock_gettime clock_nanosleep close close_range connect
copy_file_range dup dup3 epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 eventfd2 execve execveat exit exit_group
faccessat faccessat2 fadvise64 fallocate fchdir fdatasync fgetxattr flistxattr flock fstat fstatfs fsync ftruncate
futex futex_waitv get_mempolicy get_robust_list getcpu getcwd getdents64 getegid geteuid getgid getgroups getitimer
getpeername getpgid getpid getppid getpriority getrandom getresgid getresuid getrusage getsid getsockname getsockopt
gettid gettimeofday getuid getxattr inotify_add_watch inotify_init1 inotify_rm_watch io_setup io_submit io_getevents
kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lgetxattr linkat listxattr lseek madvise mbind
membarrier memfd_create mincore mkdirat mlock mmap mprotect mremap mseal msync munlock munmap nanosleep
newfstatat pidfd_open pidfd_send_signal pipe2 pkey_alloc pkey_free pkey_mprotect ppoll pread64 preadv
preadv2 pselect6 pwrite64 pwritev read readahead readlinkat readv recvfrom recvmmsg recvmsg restart_syscall rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_yield seccomp sendfile
set_mempolicy set_robust_list set_tid_address setgid setgroups setitimer setpgid setregid setresgid setresuid setreuid
setrlimit setsid setuid shutdown sigaltstack signalfd4 splice statfs statx symlinkat sync sync_file_range sysinfo tee
tgkill timer_create timer_delete timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill
truncate umask uname unlinkat vmsplice wait4 waitid write writev map_shadow_stack
""".split()
ORDINARY_X86_64 = """
access alarm arch_prctl dup2 epoll_create epoll_wait eventfd fork getdents getpgrp link lstat mkdir
pause pipe poll readlink rename rmdir select signalfd stat symlink time uretprobe uprobe unlink vfork
""".split()

DENIED_EPERM = """
mount umount2 pivot_root chroot fsopen fsconfig fsmount fspick open_tree open_tree_attr move_mount mount_setattr setns
bpf perf_event_open lookup_dcookie userfaultfd init_module finit_module delete_module reboot kexec_load kexec_file_load
swapon swapoff acct quotactl quotactl_fd sethostname setdomainname vhangup syslog lsm_get_self_attr lsm_set_self_attr
lsm_list_modules settimeofday clock_settime clock_adjtime adjtimex ioperm iopl modify_ldt sysfs ustat open_by_handle_at
name_to_handle_at fanotify_init fanotify_mark ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise
process_mrelease shmget shmat shmdt shmctl msgget msgsnd msgrcv msgctl semget semop semctl semtimedop mq_open mq_unlink
mq_timedsend mq_timedreceive mq_notify mq_getsetattr add_key request_key keyctl
""".split()
DENIED_ENOSYS = (
    "clone3 openat2 io_uring_setup io_uring_enter io_uring_register statmount listmount listns memfd_secret".split()
)
METADATA = """
chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat utimensat setxattr lsetxattr
fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat file_setattr
""".split()


def test_ordinary_calls_are_allowed_without_a_look_at_their_arguments(arch: Architecture) -> None:
    # The kernel's bitmap holds a call only if its verdict depends on number and architecture alone.
    program = compile_filter(arch, FilterOptions())
    names = ORDINARY + (ORDINARY_X86_64 if "open" in arch.syscalls else [])
    for name in names:
        if name in {"fork", "renameat"} and name not in arch.syscalls:
            continue
        verdict = simulate(program, nr=arch.syscalls[name], arch=arch.audit_arch, arguments=[0xFFFFFFFFFFFFFFFF] * 6)
        assert verdict.action == ALLOW, name
        assert verdict.constant, name


def test_only_named_calls_look_at_their_arguments(arch: Architecture) -> None:
    looking = {
        name
        for name, nr in arch.syscalls.items()
        for arguments in ((0,) * 6, (1,) * 6, (0x7FFFFFFF,) * 6)
        if not _verdict(arch, nr, arguments).constant
    }
    assert looking == {
        *("clone", "fcntl", "ioctl", "ioprio_set", "migrate_pages", "move_pages", "personality", "prctl", "prlimit64"),
        *("renameat2", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sendmmsg"),
        *("sendmsg", "sendto", "setpriority", "setsockopt", "socket", "socketpair", "unshare"),
        *({"creat", "mknod", "open"} & arch.syscalls.keys()),
        *("mknodat", "openat"),
    }


# call -> position of its flags, or None, and of its mode
MODES: dict[str, tuple[int | None, int]] = {
    "chmod": (None, 1), "fchmod": (None, 1), "fchmodat": (None, 2), "fchmodat2": (None, 2), "creat": (None, 1),
    "mknod": (None, 1), "mknodat": (None, 2), "open": (1, 2), "openat": (2, 3),
}  # fmt: skip


@pytest.mark.parametrize("call", MODES)
def test_no_file_gets_a_setuid_or_setgid_bit(arch: Architecture, call: str) -> None:
    number = arch.syscalls.get(call)
    if number is None:
        assert call in {"chmod", "creat", "mknod", "open"}, "only the calls of old are missing anywhere"
        return
    at_flags, at_mode = MODES[call]

    def action(mode: int, flags: int) -> int:
        arguments = [0] * 6
        arguments[at_mode] = mode
        if at_flags is not None:
            arguments[at_flags] = flags
        program = compile_filter(arch, FilterOptions(deny_metadata=False))
        return simulate(program, nr=number, arch=arch.audit_arch, arguments=arguments).action

    for creates in (0o100, 0o20200000):  # O_CREAT, O_TMPFILE
        assert action(0o755, creates) == ALLOW
        for mode in (0o4755, 0o2755, 0o6000, 0o4755 | 1 << 32):
            assert action(mode, creates) == EPERM
    if at_flags is not None:  # without O_CREAT there is no mode: the register holds anything
        assert action(0o6755, 0o2) == ALLOW


def _verdict(arch: Architecture, nr: int, arguments: tuple[int, ...]) -> Verdict:
    program = compile_filter(arch, FilterOptions(tcp=True, listen=True))
    return simulate(program, nr=nr, arch=arch.audit_arch, arguments=arguments)


def test_denied_calls_are_denied(arch: Architecture, ask: Callable[..., int]) -> None:
    for name in DENIED_EPERM:
        if name in arch.syscalls:
            assert ask(name) == EPERM, name
    for name in DENIED_ENOSYS:
        assert ask(name) == ENOSYS, name


def test_the_tables_of_this_test_name_every_call() -> None:
    known = known_syscalls()
    for name in (*ORDINARY, *ORDINARY_X86_64, *DENIED_EPERM, *DENIED_ENOSYS, *METADATA):
        assert name in known, name
    listed = {name for group in ALWAYS for name in GROUPS[group].calls}
    assert listed == {*DENIED_EPERM, *DENIED_ENOSYS} - {"setns"}


def test_every_name_in_the_groups_is_a_system_call_somewhere() -> None:
    known = known_syscalls()
    for group in GROUPS.values():
        assert {*group.calls, *(rule.syscall for rule in group.rules)} <= known
    for row in describe_filter(FilterOptions(tcp=True)):
        assert row[0] in known


def test_no_call_is_in_two_groups() -> None:
    names = [name for group in GROUPS.values() for name in group.calls]
    assert len(names) == len(set(names))


def test_every_entry_has_a_reason() -> None:
    for group in GROUPS.values():
        assert group.reason
        assert all(group.calls.values())
        assert all(rule.reason for rule in group.rules)


def test_the_filter_is_small(arch: Architecture) -> None:
    assert verify(compile_filter(arch, FilterOptions())) < 280
    longest = max(_verdict(arch, nr, (7,) * 6).steps for nr in arch.syscalls.values())
    assert longest < 50


def test_sec01_a_foreign_architecture_is_killed(arch: Architecture) -> None:
    program = compile_filter(arch, FilterOptions())
    assert simulate(program, nr=arch.syscalls["getpid"], arch=arch.audit_arch).action == ALLOW
    for foreign in (0x40000003, 0x40000028, 0x400000F3, 0):  # i386, arm, riscv32
        for nr in (0, 5, 11, arch.syscalls["getpid"]):
            assert simulate(program, nr=nr, arch=foreign).action == RET_KILL_PROCESS


def test_sec02_x32_numbers_are_killed() -> None:
    arch = sandlock_arch.get("x86_64")
    program = compile_filter(arch, FilterOptions())
    for nr in (0x40000000, 0x40000000 | 39, 0x40000000 | 520, 0x7FFFFFFF, 0x80000000, -1):
        assert simulate(program, nr=nr, arch=arch.audit_arch).action == RET_KILL_PROCESS
    assert simulate(program, nr=0x3FFFFFFF, arch=arch.audit_arch).action == ENOSYS


def test_sec05_high_words_of_int_arguments_do_not_matter(ask: Callable[..., int]) -> None:
    # The fixture itself asks with three high words and demands one answer.
    assert ask("ioctl", 0, 0x5412) == EPERM
    assert ask("ioctl", 0, 0x5413) == ALLOW
    assert ask("socket", 16, 3, 0, tcp=True) == EAFNOSUPPORT
    assert ask("socket", 2, 1, 0, tcp=True) == ALLOW
    assert ask("personality", 0xFFFFFFFF) == ALLOW


def test_sec06_io_uring_does_not_exist(ask: Callable[..., int]) -> None:
    for name in ("io_uring_setup", "io_uring_enter", "io_uring_register"):
        assert ask(name, tcp=True, listen=True, unix_sockets=True, deny_metadata=False) == ENOSYS


def test_sec08_clone3_is_not_there_and_clone_makes_no_namespaces(ask: Callable[..., int]) -> None:
    assert ask("clone3") == ENOSYS
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask("clone", flag | 17) == EPERM
    assert ask("clone", 0x8000 | 17) == EPERM  # CLONE_PARENT
    assert ask("clone", 17) == ALLOW
    assert ask("clone", 0x4111) == ALLOW  # CLONE_VM | CLONE_VFORK | SIGCHLD: posix_spawn
    assert ask("clone", 0x3D0F00) == ALLOW  # pthread_create
    assert ask("clone", 0x1200011) == ALLOW  # fork of glibc


def test_sec09_namespaces_are_neither_made_nor_entered(ask: Callable[..., int]) -> None:
    for flag in (0x80, 0x20000, 0x100000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask("unshare", flag) == EPERM
        assert ask("unshare", flag | 0x400) == EPERM
        assert ask("setns", 3, flag) == EPERM
    assert ask("unshare", 0x200) == ALLOW
    assert ask("unshare", 0x400) == ALLOW
    assert ask("unshare", 0) == ALLOW


def test_sec17_numbers_that_nobody_reviewed_do_not_exist(arch: Architecture) -> None:
    program = compile_filter(arch, FilterOptions(tcp=True, deny_metadata=False))
    reviewed = set(arch.syscalls.values())
    for nr in (*range(arch.last_reviewed_syscall + 200), 1000, 0x3FFFFFFF):
        if nr not in reviewed:
            verdict = simulate(program, nr=nr, arch=arch.audit_arch, arguments=[1] * 6)
            assert verdict.action == ENOSYS, nr
            assert verdict.constant, nr


def test_sec18_every_alias_of_a_metadata_call_is_denied(arch: Architecture, ask: Callable[..., int]) -> None:
    for name in METADATA:
        if name in arch.syscalls:
            assert ask(name, 3, 4, 5, 6, 7) == EPERM, name
            assert ask(name, 3, 4, 5, 6, 7, deny_metadata=False) == ALLOW, name
    for command in (0x40086602, 0x40046602, 0x401C5820):
        assert ask("ioctl", 3, command) == EPERM
        assert ask("ioctl", 3, command, deny_metadata=False) == ALLOW
    for name in ("getxattr", "lgetxattr", "fgetxattr", "getxattrat", "listxattr", "statx", "file_getattr"):
        assert ask(name) == ALLOW


def test_sec19_the_new_mount_api_is_denied_also_where_metadata_is_not(ask: Callable[..., int]) -> None:
    for name in (
        "fsopen",
        "fsconfig",
        "fsmount",
        "fspick",
        "open_tree",
        "open_tree_attr",
        "move_mount",
        "mount_setattr",
    ):
        assert ask(name, deny_metadata=False, tcp=True) == EPERM


@pytest.mark.parametrize(
    "command", [0x5412, 0x541C, 0x541D, 0x5423, 0x5437, 0x4B47, 0x4B4D, 0x4B3A, 0x5606, 0x5600, 0x56FF]
)
def test_pr01_pr02_terminal_commands_are_denied(ask: Callable[..., int], command: int) -> None:
    assert ask("ioctl", 0, command) == EPERM


# TCGETS, TCSETS, TIOCGWINSZ, TIOCSWINSZ, TIOCGPGRP, TIOCSPGRP, TIOCSCTTY, FIONREAD, FIONBIO, FIOCLEX, TIOCGPTPEER,
# FIOSETOWN, SIOCATMARK, SIOCOUTQNSD; the neighbours of denied ranges; FICLONE, others with V and K.
ORDINARY_IOCTLS = """
5401 5402 5413 5414 540f 5410 540e 541b 5421 5451 5441 8901 8905 894b 4aff 4c00 55ff 5700 c0105655 40049409 80044b01
""".split()


@pytest.mark.parametrize("command", [int(number, 16) for number in ORDINARY_IOCTLS])
def test_ordinary_ioctls_are_allowed(ask: Callable[..., int], command: int) -> None:
    assert ask("ioctl", 0, command) == ALLOW


@pytest.mark.parametrize("command", [0x8910, 0x8912, 0x8927, 0x8933, 0x8946, 0x89E0, 0x89F0, 0x890B])
def test_host_interfaces_are_not_shown(ask: Callable[..., int], command: int) -> None:
    assert ask("ioctl", 0, command, tcp=True) == EPERM


def test_inf01_a_pidfd_tells_nothing_of_its_process(ask: Callable[..., int]) -> None:
    for size in (0x40, 0x48, 0x60, 0x3FFF):
        assert ask("ioctl", 3, 0xC000FF0B | size << 16) == RET_ERRNO | errno.ENOTTY
    for number in (0, 1, 9, 10, 12):
        assert ask("ioctl", 3, 0xFF00 | number) == ALLOW


def test_pr10_pr18_other_processes_are_out_of_reach(ask: Callable[..., int]) -> None:
    for name in (
        "prlimit64",
        "sched_setaffinity",
        "sched_setscheduler",
        "sched_setparam",
        "sched_setattr",
        "move_pages",
    ):
        assert ask(name, 0, 7, 0, 0) == ALLOW
        for pid in (1, 1234, 0xFFFFFFFF):
            assert ask(name, pid, 7, 0, 0) == EPERM
    assert ask("setpriority", 0, 0, 5) == ALLOW
    assert ask("ioprio_set", 1, 0, 5) == ALLOW
    for which, who in ((0, 77), (1, 0), (2, 0), (2, 1000), (0xFFFFFFFF, 0)):
        assert ask("setpriority", which, who, 19) == EPERM
    for which, who in ((1, 77), (0, 0), (2, 0), (3, 0), (3, 1000)):
        assert ask("ioprio_set", which, who, 0) == EPERM


def test_pr12_personality_is_for_asking(ask: Callable[..., int]) -> None:
    assert ask("personality", 0) == ALLOW
    assert ask("personality", 0xFFFFFFFF) == ALLOW
    for persona in (0x0040000, 0x0400000, 0x8, 0x0100000, 1, 0xFFFFFFFE):
        assert ask("personality", persona) == EPERM


def test_prctl_may_not_undo_the_launch(ask: Callable[..., int]) -> None:
    for option in (28, 35, 0x59616D61):
        assert ask("prctl", option) == EPERM
    for option in (1, 4, 15, 16, 22, 23, 36, 38, 39, 47, 53, 0x53564D41, 65, 77):
        assert ask("prctl", option) == ALLOW


def test_net01_without_tcp_there_is_no_ip_socket(ask: Callable[..., int]) -> None:
    for family in (2, 10):
        for kind in (1, 2, 3, 5, 6, 0x80001, 0x801):
            for protocol in (0, 1, 6, 17, 58, 132, 262):
                assert ask("socket", family, kind, protocol) == EACCES
    assert ask("listen", 3, 1) == EACCES
    assert ask("socketpair", 1, 1, 0) == ALLOW


def test_ll10_with_tcp_only_tcp_sockets_may_be_made(ask: Callable[..., int]) -> None:
    for family in (2, 10):
        for flags in (0, 0x800, 0x80000, 0x80800):
            for protocol in (0, 6):
                assert ask("socket", family, 1 | flags, protocol, tcp=True) == ALLOW
            for protocol in (1, 17, 33, 46, 132, 136, 256, 262, 0xFFFFFFFF):
                assert ask("socket", family, 1 | flags, protocol, tcp=True) == EACCES
            for kind in (0, 2, 3, 4, 5, 6, 10, 15):
                assert ask("socket", family, kind | flags, 0, tcp=True) == EACCES


def test_ll20_other_families_do_not_exist(ask: Callable[..., int]) -> None:
    for family in (0, *range(3, 10), *range(11, 60), 0xFFFFFFFF):
        for options in ({"tcp": False}, {"tcp": True, "listen": True, "unix_sockets": True}):
            assert ask("socket", family, 1, 0, **options) == EAFNOSUPPORT
            assert ask("socketpair", family, 1, 0, **options) == EAFNOSUPPORT


def test_ll13_ll14_unix_sockets_are_pairs_unless_given(ask: Callable[..., int]) -> None:
    for kind in (1, 2, 3, 5):
        for flags in (0, 0x80000, 0x800):
            assert ask("socket", 1, kind | flags, 0) == EACCES
            assert ask("socket", 1, kind | flags, 0, unix_sockets=True) == ALLOW
            assert ask("socketpair", 1, kind | flags, 0) == (ALLOW if kind in {1, 5} else EACCES)
            assert ask("socketpair", 1, kind | flags, 0, unix_sockets=True) == ALLOW


def test_listening_needs_a_grant_or_only_unix_sockets(ask: Callable[..., int]) -> None:
    assert ask("listen", 3, 1, tcp=True) == EACCES
    assert ask("listen", 3, 1, tcp=True, unix_sockets=True) == EACCES
    assert ask("listen", 3, 1, tcp=True, listen=True) == ALLOW
    assert ask("listen", 3, 1, unix_sockets=True) == ALLOW


def test_ll09_fast_open_is_switched_off(ask: Callable[..., int]) -> None:
    for name, position in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        for flags, answer in ((0, ALLOW), (0x4000, ALLOW), (0x20000000, EOPNOTSUPP), (0x20004040, EOPNOTSUPP)):
            arguments = [0xFFFFFFFF] * 6
            arguments[position] = flags
            assert ask(name, *arguments, tcp=True) == answer
    for option in (19, 23, 30, 31):
        assert ask("setsockopt", 3, 6, option, tcp=True) == EPERM
    for option in (1, 2, 4, 13, 18):  # TCP_NODELAY, MAXSEG, KEEPIDLE, CONGESTION, USER_TIMEOUT
        assert ask("setsockopt", 3, 6, option, tcp=True) == ALLOW


@pytest.mark.parametrize(
    ("level", "denied", "allowed"),
    [
        (1, [25, 26, 32, 33, 36, 50, 51, 52, 62], [2, 7, 8, 9, 13, 15, 16, 20, 21]),
        (0, [4, 15, 16, 17, 19, 64, 67, 96, 128, 1152, 0xFFFFFFFF], [1, 2, 8, 10, 24, 35, 51, 63]),
        (41, [3, 4, 5, 6, 22, 34, 35, 54, 55, 57, 59, 64, 65, 75, 78], [16, 26, 49, 66, 67, 70]),
    ],
)
def test_net10_socket_options(ask: Callable[..., int], level: int, denied: list[int], allowed: list[int]) -> None:
    for option in denied:
        assert ask("setsockopt", 3, level, option, tcp=True) == EPERM, option
    for option in allowed:
        assert ask("setsockopt", 3, level, option, tcp=True) == ALLOW, option


def test_ll18_a_rename_leaves_no_whiteout(ask: Callable[..., int]) -> None:
    for flags, answer in ((0, ALLOW), (1, ALLOW), (2, ALLOW), (4, EPERM), (5, EPERM)):
        assert ask("renameat2", 3, 4, 5, 6, flags) == answer


def test_ll21_ipc_and_keys_are_denied_until_lifted(ask: Callable[..., int]) -> None:
    for group in ("sysv_ipc", "posix_mq", "keyrings"):
        for name in GROUPS[group].calls:
            assert ask(name) == EPERM
            assert ask(name, extra_allow=(group,)) == ALLOW
            assert ask(name, extra_allow=(name,)) == ALLOW
    assert ask("msgget", extra_allow=("shmget",)) == EPERM


def test_fs28_leases_are_denied(ask: Callable[..., int]) -> None:
    for command, answer in (
        (0, ALLOW),
        (3, ALLOW),
        (8, ALLOW),
        (1024, EPERM),
        (1025, ALLOW),
        (1026, EPERM),
        (1030, ALLOW),
    ):
        assert ask("fcntl", 3, command) == answer


@pytest.mark.parametrize("name", ["read", "openat", "execve", "exit_group", "socket", "ioctl", "connect", "clone"])
def test_w45_whatever_is_allowed_may_be_denied(ask: Callable[..., int], name: str) -> None:
    for arguments in ((0,) * 6, (2, 1, 6, 0, 0, 0), (1, 1, 0, 0, 0, 0)):
        assert ask(name, *arguments, tcp=True, unix_sockets=True, extra_deny=(name,)) == EPERM


def test_a_denied_name_beats_an_allowed_one(ask: Callable[..., int]) -> None:
    assert ask("shmget", extra_allow=("sysv_ipc",), extra_deny=("shmget",)) == EPERM
    assert ask("msgget", extra_allow=("sysv_ipc",), extra_deny=("shmget",)) == ALLOW


def test_denying_what_is_denied_keeps_its_errno(ask: Callable[..., int]) -> None:
    assert ask("clone3", extra_deny=("clone3",)) == ENOSYS
    assert ask("io_uring_setup", extra_deny=("io_uring",)) == ENOSYS


def test_a_group_may_be_denied_where_it_is_not_by_default(ask: Callable[..., int]) -> None:
    assert ask("fchmod", deny_metadata=False, extra_deny=("metadata",)) == EPERM
    assert ask("fchmod", deny_metadata=False) == ALLOW


def test_debuggers_and_settings_of_threads_may_be_let_in(ask: Callable[..., int]) -> None:
    for name in ("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd"):
        assert ask(name, 16, 1234, extra_allow=("ptrace",)) == ALLOW
    assert ask("prctl", 0x59616D61, 0, extra_allow=("ptrace",)) == ALLOW
    assert ask("prctl", 28, 0, extra_allow=("ptrace",)) == EPERM
    assert ask("sched_setaffinity", 1234, 8, 0, extra_allow=("scheduling",)) == ALLOW
    assert ask("prlimit64", 1234, 8, 0, extra_allow=("scheduling",)) == EPERM
    assert ask("personality", 0x40000, extra_allow=("personality",)) == ALLOW


NEVER_LIFTED = """
mount open_tree namespaces clone3 clone unshare io_uring io_uring_setup bpf perf userfaultfd modules ioctl prctl
terminal
fcntl renameat2 prlimit64 setsockopt sendto socket socketpair listen metadata fchmod open_by_handle_at fanotify setns
fast_open host_admin clock_set
""".split()


@pytest.mark.parametrize("name", NEVER_LIFTED)
def test_what_holds_the_sandbox_shut_cannot_be_lifted(name: str) -> None:
    with pytest.raises(PolicyError) as caught:
        default_spec(FilterOptions(extra_allow=("read", name)))
    (problem,) = caught.value.problems
    assert problem.field == "program.extra_allow_syscalls[1]"
    assert problem.value == name
    assert problem.remedy


def test_unknown_names_are_all_reported_with_suggestions() -> None:
    with pytest.raises(PolicyError) as caught:
        compile_filter(
            ARCHITECTURES[0], FilterOptions(extra_deny=("sokcet", "sysv_ip"), extra_allow=("ptrase", "zzzz"))
        )
    problems = caught.value.problems
    assert [problem.field for problem in problems] == [
        "program.extra_deny_syscalls[0]",
        "program.extra_deny_syscalls[1]",
        "program.extra_allow_syscalls[0]",
        "program.extra_allow_syscalls[1]",
    ]
    assert "'socket'" in problems[0].remedy
    assert "'sysv_ipc'" in problems[1].remedy
    assert "'ptrace'" in problems[2].remedy
    assert "groups are" in problems[3].remedy


def test_names_of_any_architecture_are_known_on_every_one(arch: Architecture) -> None:
    assert check_names(("open", "riscv_hwprobe"), ("sysv_ipc",)) == ()
    verify(compile_filter(arch, FilterOptions(extra_deny=("open", "riscv_hwprobe"))))


def test_rows_say_call_condition_action_and_reason() -> None:
    rows = describe_filter(FilterOptions(extra_deny=("getpid",)))
    assert rows[0] == ("getpid", "always", "EPERM", "denied by the policy")
    assert ("ioctl", "arg1 == 0x5412", "EPERM", "TIOCSTI: types into the terminal") in rows
    assert ("personality", "arg0 not in {0x0, 0xffffffff}", "EPERM", "all but asking, and PER_LINUX") in rows
    assert ("clone", "arg0 & 0x7e020000 != 0", "EPERM", "CLONE_NEW*: new namespaces") in rows
    assert ("socketpair", "arg0 == 0x1 and (arg1 & 0xf) in {0x1, 0x5}", "allow") in [row[:3] for row in rows]
