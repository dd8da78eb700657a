"""What a program starts with, and what happens where it cannot (INF-10, PR-09 13 14 17, LL-25, typed errors)."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attack_lab import Area, Box, World, call, fingerprint, forced_landlock

from sandlock import CommandNotFoundError, ConfinementError, Policy, PolicyError, Sandbox, SandlockError
from sandlock_testkit.features import level

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_testkit.tree import Tree

SYSTEM = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"]
pytestmark = pytest.mark.usefixtures("leaks")


@pytest.mark.every_abi
def test_pr_17_no_privilege_is_left_and_none_is_gained(box: Box) -> None:
    who = box.lines("who")
    assert who["no_new_privs"].result == 1
    assert who["seccomp"].result == 2
    assert who["capabilities"].result == 0
    assert (who["uid"].result, who["gid"].result) == (os.getuid(), os.getgid())
    assert who["session_leader"].result == 1
    assert who["blocked"].result == 0
    assert who["ignored"].result == 0


def test_pr_17_a_root_caller_has_no_power_over_modes(box: Box, tree: Tree) -> None:
    """Capabilities are dropped: uid 0 inside is an owner of files, and nothing more."""
    if os.geteuid() != 0:
        locked = tree.read / "locked"
        locked.write_text("x")
        locked.chmod(0)
        assert not box.lines("invoke", *call("it", "openat", -100, str(locked), 0))["it"].won
        return
    foreign = tree.read / "foreign"
    foreign.write_text("x")
    os.chown(foreign, 1234, 1234)
    foreign.chmod(0o600)
    words = [
        *call("it", "openat", -100, str(foreign), 0),
        *call("become", "setuid", 1234),
        *call("groups", "setgroups", 0, 0),
    ]
    bare = box.bare_lines("invoke", *words)
    assert bare["it"].won
    assert bare["become"].won
    inside = box.lines("invoke", *words)
    assert not any(line.won for line in inside.values()), inside


def test_pr_17_setuid_programs_gain_nothing(box: Box, tree: Tree) -> None:
    tool = tree.read / "tool"
    shutil.copy(box.program("who"), tool)
    if os.geteuid() == 0:
        os.chown(tool, 1234, 1234)
    tool.chmod(0o6755)
    result = box.inside(str(tool))
    assert b"uid %d 0" % os.getuid() in result.stdout
    assert b"no_new_privs 1 0" in result.stdout


def test_inf_10_the_environment_is_what_was_asked_for(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "LISTEN_FDS", "LD_PRELOAD_X",
                 "PYTHONPATH", "BASH_ENV", "GITHUB_TOKEN", "LC_ALL_SECRET", "XDG_RUNTIME_DIR"):  # fmt: skip
        monkeypatch.setenv(name, "leaked-canary")
    bare = box.bare("who")
    assert bare.stderr.count(b"leaked-canary") == 10
    result = box.inside("who", env={"WANTED": "yes"})
    seen = {line.split(b"=")[0].removeprefix(b"env ") for line in result.stderr.splitlines()}
    assert b"leaked-canary" not in result.stderr
    assert b"env WANTED=yes" in result.stderr
    assert seen <= {
        b"WANTED",
        b"PATH",
        b"HOME",
        b"USER",
        b"LOGNAME",
        b"TERM",
        b"LANG",
        b"LC_ALL",
        b"LC_CTYPE",
        b"TMPDIR",
        b"PWD",
        b"SHELL",
        b"TZ",
    }, seen


def test_inf_10_pr_14_nothing_open_in_the_host_is_open_inside(box: Box, tree: Tree) -> None:
    with ExitStack() as stack:
        pair, pipe = socket.socketpair(), os.pipe()
        held = [
            os.open("/", os.O_RDONLY), os.open(tree.secret, os.O_RDONLY), os.open(tree.canary.path, os.O_RDWR),
            os.memfd_create("x", 0), os.pidfd_open(os.getpid()), os.eventfd(0, 0), *pipe,
            *(end.detach() for end in pair),
        ]  # fmt: skip
        held.append(os.dup2(held[0], 900))
        for fd in held:
            stack.callback(os.close, fd)
            os.set_inheritable(fd, True)
        bare = box.bare_lines("evade", "descriptors", close_fds=False)
        assert {f"fd_{fd}" for fd in held} <= set(bare)
        inside = box.lines("evade", "descriptors")
        assert sorted(inside) == ["fd_0", "fd_1", "fd_2"]
        walked = box.lines("invoke", *call("walk", "fchdir", held[1]), *call("up", "openat", held[0], "etc/passwd", 0))
        assert {line.errno for line in walked.values()} == {errno.EBADF}


def test_pr_09_limits_only_go_down(box: Box) -> None:
    down = [*call("lower", "prlimit64", 0, 7, (64).to_bytes(8, "little") * 2, 0)]
    up = [
        *call("raise", "prlimit64", 0, 7, (1 << 30).to_bytes(8, "little") * 2, 0),
        *call("old", "setrlimit", 4, b"\xff" * 16),
    ]
    inside = box.lines("invoke", *down, *up, *call("nice", "setpriority", 0, 0, -20), max_open_files=256)
    assert inside["lower"].won
    assert not inside["raise"].won
    assert not inside["nice"].won
    script = "ulimit -n; ulimit -Hn; ulimit -Hc"
    result = box.inside("/bin/sh", "-c", script, fs_readable=SYSTEM, max_open_files=256, no_coredump=True)
    assert result.stdout.split() == [b"256", b"256", b"0"]


def test_pr_13_the_guard_and_the_runtime_are_not_overwritten(box: Box) -> None:
    """What the program itself runs from is not written, and nothing of the guard is read, where /proc is granted."""
    words = [
        *call("parent", "getppid"),
        *call("exe", "openat", -100, "/proc/self/exe", os.O_WRONLY),
    ]
    inside = box.lines("invoke", *words, fs_readable=[*box.fields()["fs_readable"], "/proc"])
    assert not inside["exe"].won
    parent = inside["parent"].result
    shell = [*SYSTEM, "/proc", os.path.dirname(box.program("invoke"))]
    script = (  # a file of the guard and of each subshell itself
        "for pid in $PPID self; do for f in mem environ maps root/etc fd/0; do "
        '(: < /proc/$pid/$f) && echo "read $pid $f"; (: >> /proc/$pid/$f) && echo "write $pid $f"; done; done'
    )
    result = box.inside("/bin/sh", "-c", script, fs_readable=shell)
    won = result.stdout.decode().splitlines()
    assert {"read self environ", "read self maps"} <= set(won), "its own it may read"
    assert [line for line in won if line.split()[1] != "self"] == [], parent


@pytest.mark.parametrize("namespaces", ["auto", "off"])
def test_ones_own_maps_are_read_where_the_grants_reach_and_of_nobody_else(namespaces: str) -> None:
    """Opens are served here; a child that is beside the caller in the tree may be confined more than it."""
    script = "sleep 5 & cat /proc/self/maps | wc -l; cat /proc/$!/maps | wc -l; kill -9 $!"
    for proc in ([], ["/proc"]):
        with Sandbox(fs_readable=[*SYSTEM, *proc], namespaces=namespaces, fs_denied=["/etc/hostname"]) as sandbox:
            own, sibling = sandbox.run(["/bin/sh", "-c", script]).stdout.split()
        assert (int(own) > 5) == bool(proc)
        assert int(sibling) == 0 or (namespaces == "auto" and bool(proc))


@pytest.mark.parametrize("namespaces", ["auto", "off"])
def test_proc_self_is_the_callers_where_opens_are_served(namespaces: str) -> None:
    """In a PID namespace a process has another number than the supervisor knows it by; its first one is not ours."""
    script = (
        "read pid rest < /proc/self/stat; test $pid = $$ && echo stat; read pid rest < /proc/thread-self/stat; "
        "test $pid = $$ && echo thread; test /proc/self/root/usr -ef /usr && echo root; "
        "test $(readlink /proc/self/fd/1 | cut -c 1-4) = pipe && echo fd; : < /proc/1/environ && echo read; "
        "for name in root/usr cwd/ fd/0 exe; do test -e /proc/1/$name && echo reached $name; done"
    )
    with Sandbox(fs_readable=[*SYSTEM, "/proc"], namespaces=namespaces, fs_denied=["/etc/hostname"]) as sandbox:
        result = sandbox.run(["/bin/sh", "-c", script])
    assert result.stdout.split() == [b"stat", b"thread", b"root", b"fd"], result


CASES: dict[str, tuple[type[Exception], int]] = {
    "missing": (CommandNotFoundError, errno.ENOENT),
    "missing on PATH": (CommandNotFoundError, errno.ENOENT),
    "not executable": (ConfinementError, errno.EACCES),
    "folder": (ConfinementError, errno.EACCES),
    "bad interpreter": (SandlockError, errno.ENOENT),
    "not a program": (SandlockError, errno.ENOEXEC),
    "empty file": (SandlockError, errno.ENOEXEC),
    "outside the grants": (SandlockError, errno.EACCES),
    "below a file": (SandlockError, errno.ENOTDIR),
    "too long": (SandlockError, errno.ENAMETOOLONG),
    "fifo": (SandlockError, errno.EACCES),
}


def _command(case: str, tree: Tree) -> str:
    path = tree.read / "it"
    if case == "bad interpreter":
        path.write_text("#!/no/such/interpreter\n")
    elif case == "not a program":
        path.write_bytes(b"\x01\x02\x03\x04" * 64)
    elif case == "fifo":
        os.mkfifo(path)
    else:
        path.write_text("")
    path.chmod(0o644 if case == "not executable" else 0o755)
    outside = tree.secret / "tool"
    outside.write_text("#!/bin/sh\n")
    outside.chmod(0o755)
    return {
        "missing": str(tree.read / "nothing"), "missing on PATH": "no-such-command-anywhere", "folder": str(tree.read),
        "outside the grants": str(outside), "below a file": str(path / "x"), "too long": "/" + "x" * 5000,
    }.get(case, str(path))  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_executed_raises_and_says_why(box: Box, tree: Tree, case: str) -> None:
    command = _command(case, tree)
    kind, number = CASES[case]
    with box.sandbox() as sandbox, pytest.raises(SandlockError) as caught:
        sandbox.run([command], timeout=10)
    error: BaseException = caught.value
    assert os.path.basename(command)[:40] in str(error)
    assert isinstance(error, OSError)
    assert error.errno in ({number, errno.ENOENT} if case == "below a file" else {number}), (error, error.errno)
    assert isinstance(error.__cause__, OSError), "the system call that said so stays the cause"
    if kind is CommandNotFoundError:
        assert isinstance(error, kind)
        assert isinstance(error, FileNotFoundError)


def test_a_failed_start_leaves_the_object_usable(box: Box) -> None:
    with box.sandbox() as sandbox:
        for _ in range(3):
            with pytest.raises(CommandNotFoundError):
                sandbox.run(["/no/such/program"])
        assert sandbox.run([box.program("who")], timeout=10).success


def test_a_working_directory_that_is_not_there_is_an_error(box: Box, tree: Tree) -> None:
    with pytest.raises(SandlockError, match="gone"), box.sandbox(cwd=str(tree.root / "gone")) as sandbox:
        sandbox.run([box.program("who")])


def test_a_granted_path_that_is_not_there_is_an_error(box: Box, tree: Tree) -> None:
    for field in ("fs_readable", "fs_writable"):
        with pytest.raises(SandlockError, match="gone"), box.sandbox(**{field: [str(tree.root / "gone")]}) as sandbox:
            sandbox.run([box.program("who")])


@pytest.mark.parametrize("words", [[], [""], ["a\0b"], ["/bin/true", "a\0b"]])
def test_commands_that_are_no_commands(box: Box, words: list[str]) -> None:
    with box.sandbox(fs_readable=SYSTEM) as sandbox, pytest.raises((SandlockError, ValueError)):
        sandbox.run(words)


def test_a_huge_argument_list_is_an_error_and_not_a_hang(box: Box) -> None:
    with box.sandbox() as sandbox, pytest.raises((SandlockError, OSError)) as caught:
        sandbox.run([box.program("who"), "x" * (4 << 20)])
    cause = caught.value if isinstance(caught.value, OSError) and caught.value.errno else caught.value.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == errno.E2BIG


@pytest.mark.needs("landlock", level=6)  # what this kernel lacks itself, the older ones' runs agree to
def test_ll_25_without_landlock_nothing_starts_unless_it_is_named(box: Box, tree: Tree, world: World) -> None:
    """forced_landlock(0) means the host's own, so the lowest that can be forced is 1: what it lacks must be named."""
    with forced_landlock(1):
        if world.namespaces != "off" and level("pid_namespace"):
            with Sandbox(**box.fields()) as sandbox:
                states = {row.name: row.state for row in sandbox.run([box.program("who")]).protections}
            assert {name for name, state in states.items() if state != "active"} == {"fs_refer"}, "stricter, and said"
            return
        with pytest.raises(SandlockError) as caught, Sandbox(**box.fields()) as sandbox:
            sandbox.run([box.program("who")])
        text = str(caught.value)
        assert "fs_ioctl_dev" in text, text
        assert "scope_signal" in text, text
        assert "allow_degraded" in text or "allow-degraded" in text, "the error says what would let it start"


@pytest.mark.needs("landlock", level=2)
@pytest.mark.parametrize("abi", range(1, 6))
def test_ll_04_ll_25_each_missing_right_is_named_in_the_result(box: Box, world: World, abi: int) -> None:
    old = Box(box.program, World(world.namespaces, abi), box.work, box.readable)
    result = old.inside("who")
    degraded = old.degraded(result)
    for name in old.world.missing():
        if name not in {"net_tcp", "scope_abstract"}:  # there is no socket in this policy: the filter alone is enough
            assert name in degraded, (name, degraded)
    assert "fs_access" not in degraded
    assert "syscalls" not in degraded


def test_a_policy_that_says_nothing_grants_nothing(program: Callable[[str], str]) -> None:
    with Sandbox(Policy()) as sandbox, pytest.raises(SandlockError):
        sandbox.run([program("who")])
    with pytest.raises(PolicyError):
        Policy(fs_readabel=["/"])  # type: ignore[call-arg] # the misspelling is the test


def test_pr_14_the_grants_of_a_sandbox_are_not_those_of_its_host(box: Box, areas: dict[str, Area]) -> None:
    """Launching confines the child alone: this thread reads and writes as before."""
    before = fingerprint(areas["secret"].path)
    box.lines("who")
    assert Path(areas["secret"].at("file")).read_text()
    assert fingerprint(areas["secret"].path) == before
    assert "NoNewPrivs:\t0" in Path("/proc/thread-self/status").read_text()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64
    assert subprocess.run(["/bin/true"], check=False).returncode == 0
