"""The default filter on the real kernel, as the caller and as an ordinary user. Each denial has its control."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import sandlock_arch
from sandlock_policy.seccomp.default import default_spec
from sandlock_policy.seccomp.filter import compile_filter
from sandlock_policy.seccomp.options import FilterOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NATIVE = sandlock_arch.native()
STRICT = compile_filter(NATIVE, FilterOptions())
NETWORK = compile_filter(NATIVE, FilterOptions(tcp=True, listen=True, deny_metadata=False))
BAD_FD = 0xFFFFFFFF
CLONE_NEWUSER = 0x10000000

only_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code and ABIs of x86_64")


def call(name: str | int, *arguments: int) -> Callable[[Any], int]:
    """Return the function that makes this call in the child and gives its value or minus the errno."""
    return lambda kernel: int(kernel.call(name, *arguments))


@only_x86_64
def test_sec01_int80_kills(kernel: Any, as_nobody: bool) -> None:
    getpid = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20; int 0x80; ret
    free = kernel.confined(None, lambda inside: inside.run_code(getpid) == os.getpid(), as_nobody=as_nobody)
    # Control: the kernel serves it, or, where it has no 32-bit ABI, faults; it is not SIGSYS.
    assert free.value is True or free.signal == signal.SIGSEGV
    assert kernel.confined(STRICT, lambda inside: inside.run_code(getpid)).signal == signal.SIGSYS
    native = b"\xb8\x27\x00\x00\x00\x0f\x05\xc3"  # mov eax, 39; syscall; ret
    assert kernel.confined(STRICT, lambda inside: inside.run_code(native) == os.getpid()).value is True


@only_x86_64
@pytest.mark.parametrize("number", [39, 520, 0])
def test_sec02_x32_kills(kernel: Any, as_nobody: bool, number: int) -> None:
    x32 = 0x40000000 | number
    assert kernel.confined(None, call(x32), as_nobody=as_nobody).signal == 0
    assert kernel.confined(STRICT, call(x32), as_nobody=as_nobody).signal == signal.SIGSYS
    assert kernel.confined(STRICT, call("getpid"), as_nobody=as_nobody).value > 0


def test_sec05_the_high_word_of_a_command_hides_nothing(kernel: Any, as_nobody: bool) -> None:
    for command in (0x5412, 0x5412 | 1 << 32, 0x5412 | 0xFFFFFFFF << 32):
        # Control: to the kernel the three are one command, on a descriptor that is not there.
        assert kernel.confined(None, call("ioctl", BAD_FD, command), as_nobody=as_nobody).value == -errno.EBADF
        assert kernel.confined(STRICT, call("ioctl", BAD_FD, command), as_nobody=as_nobody).value == -errno.EPERM
    assert kernel.confined(STRICT, call("ioctl", BAD_FD, 0x5413), as_nobody=as_nobody).value == -errno.EBADF
    netlink = (socket.AF_NETLINK | 1 << 32, socket.SOCK_RAW, 0)
    assert kernel.confined(None, call("socket", *netlink), as_nobody=as_nobody).value >= 0
    assert kernel.confined(STRICT, call("socket", *netlink), as_nobody=as_nobody).value == -errno.EAFNOSUPPORT


def test_pr01_nothing_is_typed_into_the_terminal(kernel: Any) -> None:
    def type_into_own_terminal(inside: Any) -> list[int]:
        os.setsid()
        _, terminal = os.openpty()
        inside.call("ioctl", terminal, 0x540E, 0)  # TIOCSCTTY
        (letter,) = inside.text_addresses(b"x")
        return [inside.call("ioctl", terminal, command, letter) for command in (0x5412, 0x5412 | 7 << 32)]

    free = kernel.confined(None, type_into_own_terminal).value
    assert set(free) <= {0, -errno.EIO}  # 0 where dev.tty.legacy_tiocsti is on, and for root
    assert kernel.confined(STRICT, type_into_own_terminal).value == [-errno.EPERM] * 2


def test_sec06_io_uring_is_not_there(kernel: Any, as_nobody: bool) -> None:
    free = kernel.confined(None, call("io_uring_setup", 1, 0), as_nobody=as_nobody).value
    assert free in {-errno.EFAULT, -errno.EPERM}  # EPERM: kernel.io_uring_disabled
    for name in ("io_uring_setup", "io_uring_enter", "io_uring_register"):
        assert kernel.confined(STRICT, call(name, 1, 0), as_nobody=as_nobody).value == -errno.ENOSYS


def test_sec08_clone3_is_not_there_and_clone_works_without_namespaces(kernel: Any, as_nobody: bool) -> None:
    def clone(flags: int) -> Callable[[Any], int]:
        def function(inside: Any) -> int:
            child = int(inside.call("clone", flags | signal.SIGCHLD))
            if child == 0:
                os._exit(7)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child > 0 else child

        return function

    assert kernel.confined(None, call("clone3", 0, 0), as_nobody=as_nobody).value == -errno.EINVAL
    assert kernel.confined(STRICT, call("clone3", 0, 0), as_nobody=as_nobody).value == -errno.ENOSYS
    assert kernel.confined(STRICT, clone(0), as_nobody=as_nobody).value == 7
    assert kernel.confined(STRICT, clone(CLONE_NEWUSER), as_nobody=as_nobody).value == -errno.EPERM
    assert kernel.confined(STRICT, clone(CLONE_NEWUSER | 5 << 32), as_nobody=as_nobody).value == -errno.EPERM
    assert kernel.confined(STRICT, clone(0x8000), as_nobody=as_nobody).value == -errno.EPERM


def test_sec09_the_user_namespace_stays(kernel: Any, as_nobody: bool) -> None:
    def unshare(flags: int) -> Callable[[Any], list[Any]]:
        def function(inside: Any) -> list[Any]:
            before = os.stat("/proc/self/ns/user").st_ino
            return [inside.call("unshare", flags), os.stat("/proc/self/ns/user").st_ino != before]

        return function

    free = kernel.confined(None, unshare(CLONE_NEWUSER), as_nobody=as_nobody).value
    assert free in ([0, True], [-errno.EPERM, False], [-errno.ENOSPC, False])  # hosts may refuse it themselves
    assert kernel.confined(STRICT, unshare(CLONE_NEWUSER), as_nobody=as_nobody).value == [-errno.EPERM, False]
    assert kernel.confined(STRICT, unshare(0x80), as_nobody=as_nobody).value == [-errno.EPERM, False]
    assert kernel.confined(STRICT, unshare(0x400), as_nobody=as_nobody).value == [0, False]
    assert kernel.confined(None, call("setns", BAD_FD, 0), as_nobody=as_nobody).value == -errno.EBADF
    assert kernel.confined(STRICT, call("setns", BAD_FD, 0), as_nobody=as_nobody).value == -errno.EPERM


def test_every_call_that_is_always_denied_answers_with_its_errno(kernel: Any, as_nobody: bool) -> None:
    wanted = {
        rule.syscall: -(rule.action & 0xFFFF)
        for rule in reversed(default_spec(FilterOptions()).rules)
        if not rule.conditions and rule.syscall in NATIVE.syscalls and rule.syscall not in {"socket", "socketpair"}
    }
    assert len(wanted) > 100
    # Arguments that could do nothing even if the filter let the call through.
    nowhere = (0xFFFFFFFFFFFFFFFF,) * 6
    answers = kernel.confined(
        STRICT, lambda inside: {name: inside.call(name, *nowhere) for name in wanted}, as_nobody=as_nobody
    ).value
    assert answers == wanted


def test_sec17_the_kernel_has_no_call_that_nobody_reviewed(kernel: Any) -> None:
    # All above the table and, on x86_64, the numbers that were kept free below it.
    reviewed = set(NATIVE.syscalls.values())
    numbers = [nr for nr in range(NATIVE.last_reviewed_syscall + 50) if nr not in reviewed and nr > 240]
    nowhere = (0xFFFFFFFFFFFFFFFF,) * 6
    found = kernel.confined(None, lambda inside: [nr for nr in numbers if inside.call(nr, *nowhere) != -errno.ENOSYS])
    assert found.value == [], "newer than the table: review them, then regenerate it with tools/gen_syscalls.py"
    nonexistent = kernel.confined(STRICT, lambda inside: [nr for nr in numbers if inside.call(nr) == -errno.ENOSYS])
    assert nonexistent.value == numbers


def test_ll01_metadata_stays(kernel: Any, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("x")
    target.chmod(0o644)
    os.utime(target, (1, 1))
    before = target.stat()

    def change(_: object) -> list[int]:
        descriptor = os.open(target, os.O_RDONLY)
        attempts: list[Callable[[], object]] = [
            lambda: os.chmod(target, 0o600),
            lambda: os.fchmod(descriptor, 0o600),
            lambda: os.utime(target, (2, 2)),
            lambda: os.utime(descriptor, (2, 2)),
            lambda: os.chown(target, os.getuid(), os.getgid()),
            lambda: os.setxattr(target, "user.x", b"y"),
            lambda: os.setxattr(descriptor, "user.x", b"y"),
        ]
        return [_errno_of(attempt) for attempt in attempts]

    assert kernel.confined(STRICT, change).value == [errno.EPERM] * 7
    after = target.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    # Control: the same calls under a filter that leaves metadata to the mount namespace. xattrs need a file system.
    assert kernel.confined(NETWORK, change).value[:5] == [0] * 5
    assert target.stat().st_mode & 0o777 == 0o600


def _errno_of(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError as error:
        return error.errno or 0
    return 0


def test_net01_sockets_of_a_policy_without_network(kernel: Any, as_nobody: bool) -> None:
    def sockets(_: object) -> list[int]:
        kinds = [
            (socket.AF_INET, socket.SOCK_STREAM, 0),
            (socket.AF_INET6, socket.SOCK_STREAM, 0),
            (socket.AF_INET, socket.SOCK_DGRAM, 0),
            (socket.AF_UNIX, socket.SOCK_STREAM, 0),
            (socket.AF_NETLINK, socket.SOCK_RAW, 0),
            (socket.AF_INET, socket.SOCK_STREAM, 262),
        ]
        pairs = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM]
        return [
            *[_errno_of(partial(socket.socket, *kind)) for kind in kinds],
            *[_errno_of(partial(socket.socketpair, socket.AF_UNIX, kind)) for kind in pairs],
        ]

    no, unknown = errno.EACCES, errno.EAFNOSUPPORT
    assert kernel.confined(None, sockets, as_nobody=as_nobody).value[:5] == [0] * 5
    assert kernel.confined(STRICT, sockets, as_nobody=as_nobody).value == [no, no, no, no, unknown, no, 0, 0, no]
    assert kernel.confined(NETWORK, sockets, as_nobody=as_nobody).value == [0, 0, no, no, unknown, no, 0, 0, no]


def test_ll09_fast_open_reaches_no_server(kernel: Any, as_nobody: bool) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(0.3)
        address = server.getsockname()

        def send(option: tuple[int, int] | None, flags: int) -> Callable[[Any], int]:
            def function(_: object) -> int:
                client = socket.socket()
                if option and (refused := _errno_of(lambda: client.setsockopt(*option, 1))):
                    return refused
                return _errno_of(lambda: client.sendto(b"hi", flags, address))

            return function

        fast_open = socket.MSG_FASTOPEN
        assert kernel.confined(None, send(None, fast_open), as_nobody=as_nobody).value == 0
        server.accept()[0].close()  # control: it connects
        filtered = kernel.confined(NETWORK, send(None, fast_open), as_nobody=as_nobody)
        assert filtered.value == errno.EOPNOTSUPP
        hidden = kernel.confined(
            NETWORK, lambda inside: inside.call("sendto", BAD_FD, 0, 0, fast_open | 1 << 40, 0, 0), as_nobody=as_nobody
        )
        assert hidden.value == -errno.EOPNOTSUPP
        connect = kernel.confined(NETWORK, send((socket.IPPROTO_TCP, 30), 0), as_nobody=as_nobody)
        assert connect.value == errno.EPERM
        with pytest.raises(TimeoutError):
            server.accept()
        assert kernel.confined(NETWORK, lambda _: bool(socket.create_connection(address)), as_nobody=as_nobody).value
        server.accept()[0].close()


def test_ll18_a_rename_leaves_no_device_node(kernel: Any, tmp_path: Path) -> None:
    def rename(flags: int) -> Callable[[Any], int]:
        def function(inside: Any) -> int:
            source, target = inside.text_addresses(bytes(tmp_path / "a"), bytes(tmp_path / "b"))
            return int(inside.call("renameat2", -100, source, -100, target, flags))

        return function

    (tmp_path / "a").write_text("x")
    assert kernel.confined(STRICT, rename(4)).value == -errno.EPERM
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    assert kernel.confined(STRICT, rename(0)).value == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_pr18_limits_and_scheduling_of_the_parent_are_out_of_reach(kernel: Any, as_nobody: bool) -> None:
    attempts = [("prlimit64", 7, 0, 0), ("sched_setaffinity", 0, 0), ("sched_setscheduler", 0, 0)]

    def on(own: bool) -> Callable[[Any], list[int]]:
        return lambda inside: [
            inside.call(name, 0 if own else os.getppid(), *rest) != -errno.EPERM for name, *rest in attempts
        ]

    assert kernel.confined(STRICT, on(own=True), as_nobody=as_nobody).value == [True] * 3
    assert kernel.confined(STRICT, on(own=False), as_nobody=as_nobody).value == [False] * 3


PROGRAMS = {
    "sh": "echo a | tr a b | (read x; test $x = b)",
    "bash": "bash -c 'coproc cat; echo hi >&${COPROC[1]}; read -u ${COPROC[0]} x; test $x = hi; ulimit -n 64'",
    "env": "env -i /bin/true",
    "tar": "tar -cf - /etc/passwd | tar -t",
    "nice": "nice -n 1 ionice -c 3 timeout 5 true",
    "make": "printf 'all: a b\\na b: ; sh -c true\\n' > Makefile && make -j2",
    "perl": "perl -e 'system(qq(true)) == 0 or die'",
    "sqlite3": "sqlite3 test.db 'create table t (x); insert into t values (1);'",
    "node": "node -e 'setTimeout(() => process.exit(0), 1)'",
    "java": "java -version",
    "go": "go version",
}
# ld sets the execute bits of what it wrote and git those of its lock files: they need the metadata protection of the
# mount namespace, which leaves chmod inside the write grants.
BUILDERS = {
    "git": "git init -q . && touch a && git add a && git -c user.name=a -c user.email=a commit -qm a && git gc -q",
    "gcc": "echo 'int main(void) { return 0; }' > a.c && gcc -pipe a.c -o a && ./a",
    "g++": "echo '#include <thread>\nint main() { std::thread([]{}).join(); }' > a.cc && g++ a.cc -o a && ./a",
    "rustc": "echo 'fn main() { std::thread::spawn(|| ()).join().unwrap(); }' > a.rs && rustc a.rs && ./a",
    "go": "echo 'package main; func main() {}' > a.go && GOCACHE=$PWD GOFLAGS=-mod=mod go run a.go",
    "cargo": "cargo init -q --vcs none --name a . && cargo run -q --offline",
    "javac": "echo 'class A { public static void main(String[] a) {} }' > A.java && javac A.java && java A",
    "cp": "touch a && chmod 600 a && cp -p a b && touch -d 2001-01-01 b && install -m 700 a c",
}
PYTHON = """
import asyncio, concurrent.futures, multiprocessing, os, sqlite3, subprocess, tempfile, threading, time
subprocess.run(["true"], check=True, timeout=5)
thread = threading.Thread(target=time.sleep, args=(0.01,)); thread.start(); thread.join()
async def main():
    child = await asyncio.create_subprocess_exec("true")
    assert await child.wait() == 0
asyncio.run(main())
with tempfile.TemporaryFile() as file: file.write(b"x")
sqlite3.connect("python.db").execute("create table t (x)")
os.nice(1); os.sched_setaffinity(0, os.sched_getaffinity(0))
pidfd = os.pidfd_open(os.getpid())
with concurrent.futures.ThreadPoolExecutor(4) as pool: list(pool.map(str, range(100)))
with multiprocessing.get_context("fork").Pool(2) as pool: assert pool.map(abs, [-1]) == [1]
"""


@pytest.mark.parametrize("program", [name for name in PROGRAMS if shutil.which(name)])
def test_ordinary_programs_work(kernel: Any, program: str, tmp_path: Path) -> None:
    run(kernel, STRICT, ["sh", "-c", PROGRAMS[program]], tmp_path)


@pytest.mark.parametrize("program", [name for name in BUILDERS if shutil.which(name)])
def test_builders_work(kernel: Any, program: str, tmp_path: Path) -> None:
    run(kernel, NETWORK, ["sh", "-c", BUILDERS[program]], tmp_path)


def test_python_works(kernel: Any, tmp_path: Path) -> None:
    run(kernel, STRICT, [sys.executable, "-c", PYTHON], tmp_path)


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace on this host")
def test_a_debugger_works_once_it_is_let_in(kernel: Any, tmp_path: Path) -> None:
    traced = ["strace", "-f", "-o", "/dev/null", "sh", "-c", "true & wait"]
    run(kernel, compile_filter(NATIVE, FilterOptions(extra_allow=("ptrace",))), traced, tmp_path)
    with pytest.raises(AssertionError, match="PTRACE"):
        run(kernel, STRICT, traced, tmp_path)


def run(kernel: Any, program: bytes, command: list[str], folder: Path) -> None:
    """Run a command under the filter; fail with its words if it does."""

    def function(_: object) -> list[Any]:
        os.chdir(folder)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return [done.returncode, done.stdout[-2000:] + done.stderr[-2000:]]

    code, said = kernel.confined(program, function).value
    assert code == 0, said
