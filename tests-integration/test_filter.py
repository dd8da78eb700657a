"""Attacks on the system call filter: other doors, other numbers, high halves, hidden flags (security.md, section 1)."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attack_lab import Area, Box, Line, call, number, reason_of

import sandlock_arch

if TYPE_CHECKING:
    from collections.abc import Callable

x86_64 = pytest.mark.needs("x86_64")
NAMESPACES = {  # linux/sched.h
    "time": 0x80,
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}


def refused(error: int) -> Line:
    return Line(-1, error)


def killed_by_filter(result: object) -> bool:
    return getattr(result, "signal", None) == signal.SIGSYS


@x86_64
@pytest.mark.parametrize("door", ["int80", "ljmp"])
def test_sec_01_the_32_bit_doors_kill(box: Box, areas: dict[str, Area], door: str) -> None:
    secret = areas["secret"].at("file")
    assert b"file of secret" in box.bare("foreign", door, secret).stdout
    # A file that may be read: what kills is the door, not the path.
    for path in (secret, areas["read"].at("file")):
        result = box.inside("foreign", door, path)
        assert killed_by_filter(result), (reason_of(result), result.exit_code, result.stdout)
        assert result.stdout == b""


@x86_64
@pytest.mark.parametrize("syscall", [0, 2, 39, 59, 231, 512, 520, 547, 0x3FFFFFFF])
def test_sec_02_every_x32_number_kills(box: Box, syscall: int) -> None:
    if syscall != 231:  # exit_group, which would end the control too
        assert "x32" in box.bare_lines("foreign", "x32", str(syscall & 0xFFFF)), (
            "bare, the call returns, whatever it says"
        )
    result = box.inside("foreign", "x32", str(syscall))
    assert killed_by_filter(result), (reason_of(result), result.stdout)


@x86_64
def test_sec_03_a_32_bit_program_is_killed_at_its_first_call(box: Box) -> None:
    assert box.bare("elf32").returncode == 42
    result = box.inside("elf32")
    assert killed_by_filter(result), (reason_of(result), result.exit_code)


@x86_64
def test_sec_16_the_vsyscall_page_does_not_crash(box: Box) -> None:
    bare = box.bare_lines("foreign", "vsyscall")
    assert box.lines("foreign", "vsyscall") == bare


def test_sec_05_the_high_half_of_an_int_is_not_looked_at(box: Box) -> None:
    high = 1 << 32
    words = [
        *call("netlink", "socket", 16 | high, 3, 0),
        *call("unix", "socket", 1 | high, 1, 0),
        *call("raw", "socket", 2 | high, 2 | high, high),
        *call("tiocsti", "ioctl", 0, 0x5412 | high, "x"),
        *call("tioclinux", "ioctl", 0, 0x541C | high, "\x02"),
        *call("personality", "personality", 0x0040000 | high),
        *call("unshare", "unshare", NAMESPACES["user"] | high),
        *call("prlimit", "prlimit64", os.getpid() | high, 7, 0, "#16"),
        *call("setns", "setns", 1 << 32, NAMESPACES["user"] | high),
    ]
    bare = box.bare_lines("invoke", *words)
    assert bare["netlink"].won
    assert bare["unix"].won
    assert bare["prlimit"].won
    inside = box.lines("invoke", *words)
    assert {name for name, line in inside.items() if line.won} == set(), inside
    assert inside["tiocsti"].errno == errno.EPERM, "the filter refuses it; the device would have said ENOTTY"
    assert bare["tiocsti"].errno == errno.ENOTTY


@pytest.mark.parametrize("goal", ["uring", "uring-socket"])
def test_sec_06_io_uring_is_no_second_way(box: Box, areas: dict[str, Area], goal: str) -> None:
    arguments = [areas["secret"].at("file")] if goal == "uring" else []
    assert box.bare_lines("evade", goal, *arguments)["uring_result"].won
    assert set(box.lines("evade", goal, *arguments).values()).issubset({refused(errno.ENOSYS), refused(errno.EPERM)})
    words = [*call("enter", "io_uring_enter", -1, 0, 0, 0, 0, 0), *call("register", "io_uring_register", -1, 0, 0, 0)]
    assert {line.errno for line in box.bare_lines("invoke", *words).values()} <= {errno.EBADF, errno.EINVAL}
    assert {line.errno for line in box.lines("invoke", *words).values()} <= {errno.ENOSYS, errno.EPERM}


def test_sec_08_clone3_is_not_there_whatever_its_flags(box: Box) -> None:
    assert box.bare_lines("evade", "clone3", "0")["clone3"].won
    for flags in (0, NAMESPACES["user"], NAMESPACES["user"] | NAMESPACES["net"]):
        assert box.lines("evade", "clone3", hex(flags))["clone3"] == refused(errno.ENOSYS)


@pytest.mark.parametrize("flag", NAMESPACES)
def test_sec_09_no_new_namespace(box: Box, flag: str) -> None:
    user = NAMESPACES["user"]
    value = NAMESPACES[flag] | user  # an ordinary user needs the user namespace with it
    unshare = call("unshare", "unshare", value)
    assert box.bare_lines("invoke", *unshare)["unshare"].won
    assert box.lines("invoke", *unshare)["unshare"] == refused(errno.EPERM)
    assert box.lines("invoke", "--thread", *unshare)["unshare"] == refused(errno.EPERM)
    assert box.lines("invoke", *call("unshare", "unshare", NAMESPACES[flag]))["unshare"] == refused(errno.EPERM)
    if flag != "time":  # its bit belongs to the exit signal in clone(2)
        assert box.bare_lines("evade", "clone", hex(value))["clone"].won
        assert box.lines("evade", "clone", hex(value))["clone"] == refused(errno.EPERM)
        assert box.lines("evade", "clone", "0")["clone"].won


def test_sec_09_no_namespace_of_another_process_is_entered(box: Box) -> None:
    words = [
        *call("pidfd", "pidfd_open", os.getpid(), 0),
        *call("by_pidfd", "setns", "@pidfd", NAMESPACES["uts"]),
        *call("by_bad_fd", "setns", -1, 0),
    ]
    assert box.bare_lines("invoke", *words)["by_bad_fd"].errno == errno.EBADF
    inside = box.lines("invoke", *words)
    assert inside["by_pidfd"] == inside["by_bad_fd"] == refused(errno.EPERM)


def test_sec_12_no_listener_and_no_descriptor_but_stdio(box: Box) -> None:
    keep, give = os.pipe()
    os.set_inheritable(keep, True)
    os.set_inheritable(give, True)
    try:
        bare = box.bare_lines("evade", "descriptors", close_fds=False)
        assert f"fd_{keep}" in bare, "bare, a descriptor without close-on-exec is inherited"
        inside = box.lines("evade", "descriptors")
    finally:
        os.close(keep)
        os.close(give)
    assert sorted(inside) == ["fd_0", "fd_1", "fd_2"]


@pytest.mark.parametrize("above", [1, 2, 10, 100, 1000, 0x10000, 0x3FFFFFFF])
def test_sec_17_numbers_nobody_reviewed_are_not_there(box: Box, above: int) -> None:
    last = sandlock_arch.native().last_reviewed_syscall
    if last + above >= 0x40000000:
        above = 0x3FFFFFFF - last
    assert box.lines("invoke", *call("new", last + above))["new"] == refused(errno.ENOSYS)


def test_sec_17_holes_in_the_table_are_not_there(box: Box) -> None:
    """Numbers that were removed or never assigned (on x86-64 uselib and nfsservctl are such)."""
    native = sandlock_arch.native()
    holes = sorted(set(range(native.last_reviewed_syscall)) - set(native.syscalls.values()))
    assert holes
    words = [word for nr in holes for word in call(f"nr_{nr}", nr, 0, 0, 0, 0, 0, 0)]
    inside = box.lines("invoke", *words)
    assert {name: line for name, line in inside.items() if line.errno not in {errno.ENOSYS, errno.EPERM}} == {}


def test_sec_17_what_is_reviewed_covers_this_kernel(box: Box) -> None:
    last = sandlock_arch.native().last_reviewed_syscall
    words: list[str] = []
    for nr in range(last + 1, last + 64):
        words += call(f"nr_{nr}", nr, -1, -1, -1, -1, -1, -1)
    inside = box.lines("invoke", *words)
    assert {line.errno for line in inside.values()} == {errno.ENOSYS}
    bare = box.bare_lines("invoke", *words)
    unknown = [name for name, line in bare.items() if line.errno != errno.ENOSYS]
    assert len(unknown) < 30, f"this kernel has {unknown}: the syscall table is due for review"


MOUNTING: list[tuple[str, tuple[str | int, ...], set[int]]] = [
    # Harmless arguments. What they answer bare shows that the call is there: also the ordinary user's EPERM does.
    ("fsopen", ("tmpfs", 0), set()),
    ("fsconfig", (-1, 0, 0, 0, 0), {errno.EINVAL, errno.EBADF}),
    ("fsmount", (-1, 0, 0), {errno.EBADF}),
    ("fspick", (-1, "", 0), {errno.EBADF, errno.ENOENT, errno.EINVAL}),
    ("move_mount", (-1, "", -1, "", 0), {errno.ENOENT, errno.EBADF}),
    ("open_tree", (-1, "x", 0), {errno.EBADF}),
    ("mount_setattr", (-1, "x", 0, "#32", 32), {errno.EBADF, 0}),
    ("mount", ("none", "/nowhere", "tmpfs", 0, 0), {errno.ENOENT}),
    ("umount2", ("/nowhere", 0), {errno.ENOENT}),
    ("pivot_root", ("/nowhere", "/nowhere"), {errno.ENOENT}),
    ("chroot", ("/nowhere",), {errno.ENOENT}),
    ("open_tree_attr", (-1, "x", 0, "#32", 32), {errno.EBADF}),
    ("statmount", (0, 0, 0, 0), {errno.EFAULT, errno.EINVAL}),
    ("listmount", (0, 0, 0, 0), {errno.EFAULT, errno.EINVAL}),
]


@pytest.mark.parametrize(("syscall", "arguments", "bare_says"), MOUNTING, ids=[entry[0] for entry in MOUNTING])
def test_sec_19_the_mount_interfaces_are_refused(
    box: Box, syscall: str, arguments: tuple[str | int, ...], bare_says: set[int]
) -> None:
    if number(syscall) is None:
        pytest.skip(f"{syscall} is not in the reviewed table of this architecture, so it answers ENOSYS (SEC-17)")
    words = call("it", syscall, *arguments)
    bare = box.bare_lines("invoke", *words)["it"]
    assert bare.errno != errno.ENOSYS or not bare_says
    inside = box.lines("invoke", *words)["it"]
    assert inside.errno in {errno.EPERM, errno.ENOSYS}, inside
    if bare.errno in bare_says:
        assert inside != bare, "the filter answers, before the kernel looks at the arguments"


QUEUE = f"sandlock-{os.getuid()}-{os.getpid()}"
FORBIDDEN: dict[str, tuple[str | bytes | int, ...]] = {
    "perf_event_open": ("#128", -1, -1, -1, 0),
    "bpf": (0, "#128", 8),
    "userfaultfd": (1,),
    "kexec_load": (0, -1, 0, -1),
    "kexec_file_load": (-1, -1, 0, 0, -1),
    "init_module": (0, 0, 0),
    "finit_module": (-1, 0, 0),
    "delete_module": ("none", 0),
    "quotactl": (-1, "/nowhere", 0, 0),
    "quotactl_fd": (-1, -1, 0, 0),
    "iopl": (5,),
    "ioperm": (-1, 1, 0),
    "modify_ldt": (9, 0, 0),
    "acct": ("/nowhere",),
    "swapon": ("/nowhere", 0),
    "swapoff": ("/nowhere",),
    "reboot": (0, 0, 0, 0),
    "sethostname": (0, -1),
    "setdomainname": (0, -1),
    "settimeofday": (-1, -1),
    "clock_settime": (99, 0),
    "clock_adjtime": (99, 0),
    "adjtimex": (-1,),
    "syslog": (99, 0, 0),
    "keyctl": (99, 0, 0, 0, 0),
    "add_key": ("user", "sandlock-test", "x", 1, -3),
    "request_key": ("user", "sandlock-test", 0, -3),
    "open_by_handle_at": (-1, "#128", 0),
    "name_to_handle_at": (-1, "x", "#128", "#8", 0),
    "fanotify_init": (0, 0),
    "fanotify_mark": (-1, 0, 0, -1, 0),
    "kcmp": (0, 0, 99, 0, 0),
    "ptrace": (99, 0, 0, 0),
    "process_vm_readv": (0, 0, 0, 0, 0, 1),
    "process_vm_writev": (0, 0, 0, 0, 0, 1),
    "process_madvise": (-1, 0, 0, 0, 0),
    "process_mrelease": (-1, 0),
    "pidfd_getfd": (-1, 0, 0),
    "move_pages": (1, 0, 0, 0, 0, -1),
    "migrate_pages": (1, 0, 0, 0),
    "memfd_secret": (-1,),
    "vhangup": (),
    "shmget": (0, 4096, 0o1600),
    "msgget": (0, 0o1600),
    "semget": (0, 1, 0o1600),
    "shmat": (-1, 0, 0),
    "msgsnd": (-1, "#16", 1, 0),
    "semop": (-1, "#16", 1),
    "mq_open": (QUEUE, 0o102, 0o600, 0),
    "mq_unlink": ("sandlock-none",),
    "lookup_dcookie": (0, 0, 0),
    "personality": (0x0040000,),
}


@pytest.mark.parametrize("syscall", FORBIDDEN)
def test_pr_12_ll_21_fs_11_calls_that_nobody_inside_needs_are_refused(box: Box, syscall: str) -> None:
    nr = number(syscall)
    if nr is None:
        pytest.skip(f"{syscall} does not exist on this architecture")
    if syscall == "vhangup" and os.geteuid() == 0:
        bare_errno = 0  # bare and as root it would hang up the terminal of whoever runs the tests
    else:
        bare = box.bare_lines("invoke", *call("it", nr, *FORBIDDEN[syscall]))["it"]
        bare_errno = bare.errno
    inside = box.lines("invoke", *call("it", nr, *FORBIDDEN[syscall]))["it"]
    assert inside.result == -1, inside
    assert inside.errno in {errno.EPERM, errno.ENOSYS}, inside
    if syscall in {"shmget", "msgget", "semget", "add_key", "mq_open", "personality"}:
        assert bare_errno == 0, "bare, the ordinary user may"


def test_ll_21_the_control_of_mq_open_leaves_no_queue(box: Box) -> None:
    """A queue stays until somebody unlinks it, and another user's of the same name could not be opened."""
    unlink = number("mq_unlink")
    assert unlink is not None
    words = call("it", unlink, QUEUE)
    box.bare_lines("invoke", *words)
    assert box.bare_lines("invoke", *words)["it"].errno == errno.ENOENT


def test_sec_05_prctl_options_that_weaken_are_refused(box: Box) -> None:
    options = {"securebits": (28, 0), "ptracer": (0x59616D61, -1), "mm": (35, 99, 0, 0, 0)}
    words = [word for name, values in options.items() for word in call(name, "prctl", *values)]
    words += [
        word
        for name, values in options.items()
        for word in call(f"{name}_high", "prctl", values[0] | 1 << 32, *values[1:])
    ]
    words += call("name", "prctl", 15, "renamed")
    inside = box.lines("invoke", *words)
    assert inside.pop("name").won, "an ordinary option still works"
    assert {line.errno for line in inside.values()} <= {errno.EPERM, errno.EINVAL}, inside
    assert {inside[name].errno for name in options} == {errno.EPERM}, inside


def test_sec_10_a_filter_of_its_own_opens_nothing(box: Box, areas: dict[str, Area]) -> None:
    """One that allows everything may be stacked: the stricter of the two wins."""
    allow = b"\x06\x00\x00\x00\x00\x00\xff\x7f"  # BPF_RET|BPF_K, SECCOMP_RET_ALLOW
    script = (
        "import ctypes, os\n"
        f"b = ctypes.create_string_buffer({allow!r}, 8)\n"
        "p = ctypes.create_string_buffer(16); ctypes.memmove(p, bytes([1, 0]), 2)\n"
        "ctypes.c_void_p.from_buffer(p, 8).value = ctypes.addressof(b)\n"
        "libc = ctypes.CDLL(None)\n"
        "r = libc.prctl(22, 2, p, 0, 0)\n"
        "print('stacked', r, 0)\n"
        "import socket\n"
        "for name, act in (('read', lambda: open(os.environ['SECRET'])), ('socket', lambda: socket.socket(16, 3)),\n"
        "                  ('unshare', lambda: libc.unshare(0x10000000))):\n"
        "    try:\n"
        "        print(name, -1 if act() == -1 else 0, 0)\n"
        "    except OSError as e:\n"
        "        print(name, -1, e.errno)\n"
    )
    bare = subprocess.run(
        ["/usr/bin/python3", "-c", "import ctypes; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\n" + script],
        env={"SECRET": areas["secret"].at("file")},
        capture_output=True,
        check=True,
    )
    assert bare.stdout.splitlines() == [b"stacked 0 0", b"read 0 0", b"socket 0 0", b"unshare 0 0"]
    result = box.inside(
        "/usr/bin/python3",
        "-c",
        script,
        fs_readable=["/usr", "/lib", "/lib64", "/etc/ld.so.cache"],
        env={"SECRET": areas["secret"].at("file")},
    )
    lines = result.stdout.decode().splitlines()
    assert lines[1:] and all(line.split()[1] == "-1" for line in lines[1:]), (lines, result.stderr)


def test_sec_01_a_filter_covers_threads_and_new_programs(box: Box, program: Callable[[str], str]) -> None:
    socket = call("socket", "socket", 16, 3, 0)
    assert box.bare_lines("invoke", "--thread", *socket)["socket"].won
    assert not box.lines("invoke", "--thread", *socket)["socket"].won
    again = box.inside(
        "/bin/sh",
        "-c",
        f'"{program("invoke")}" {" ".join(socket)}',
        fs_readable=["/usr", "/bin", "/lib", "/lib64", os.path.dirname(program("invoke"))],
    )
    assert b"socket -1" in again.stdout, (again.stdout, again.stderr)


def test_filters_of_many_threads_do_not_mix(box: Box) -> None:
    """Launches from several host threads at once: each sandbox has its own filter, the host none."""
    seen: list[int] = []

    def one() -> None:
        seen.append(box.lines("invoke", *call("netlink", "socket", 16, 3, 0))["netlink"].errno)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert 0 not in seen
    host = Path("/proc/thread-self/status").read_text()
    assert "Seccomp:\t0" in host
