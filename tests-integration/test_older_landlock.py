"""What Landlock before ABI 6, 5 and 3 does not hold, and namespaces and seccomp hold instead (LL-04, LL-05, LL-16).

Each attack wins bare first. Under the kernel's own Landlock the same must hold.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attack_lab import Box, call, forced_landlock

from sandlock import LayerMissingError, Sandbox, preset

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Victim

    from sandlock_testkit.tree import Tree

pytestmark = [
    pytest.mark.older_landlock,
    pytest.mark.needs("landlock", level=6),
    pytest.mark.needs("pid_namespace"),
]

PYTHON = [sys.executable, "-I", "-S", "-c"]
SYSTEM = ["/usr", "-/lib", "-/lib64", "-/bin", "/etc", f"-{sys.prefix}", f"-{sys.base_prefix}"]
SEND_SIGNAL = 424  # pidfd_send_signal, the same number everywhere
GRANTS_DEVICE = "/dev/ptmx"
READ_NUMBER = 0x80045430  # TIOCGPTN, asm-generic/ioctls.h


def layers(result: Any) -> dict[str, str]:
    """The layer of each protection, which must be active."""
    assert {row.name for row in result.protections if row.state != "active"} == set()
    return {row.name: row.layer for row in result.protections}


def python(box: Box, code: str, *words: str, **fields: Any) -> Any:
    """Run Python code inside."""
    grants = [*box.fields()["fs_readable"], *SYSTEM, *fields.pop("more", [])]
    return box.inside(*PYTHON, code, *words, fs_readable=grants, **fields)


@pytest.mark.parametrize("abi", range(1, 6))
def test_the_default_preset_runs_in_full_on_every_older_landlock(abi: int) -> None:
    with forced_landlock(abi), Sandbox(preset("default")) as sandbox:
        result = sandbox.run(
            ["sh", "-c", "echo $(( 6 * 7 )) >/dev/null; cat /dev/null; head -c 1 /dev/urandom | wc -c"]
        )
    assert result.stdout.strip() == b"1", result.stderr
    states = {row.name: row.state for row in result.protections}
    assert {name for name, state in states.items() if state != "active"} == ({"fs_refer"} if abi == 1 else set())
    held = {row.name: row.layer for row in result.protections}
    assert (held["scope_signal"], held["tree_kill"]) == ("namespace", "namespace")
    assert held["fs_truncate"] == ("namespace" if abi < 3 else "landlock")
    assert held["fs_ioctl_dev"] == ("namespace" if abi < 5 else "landlock")


@pytest.mark.parametrize("abi", [2, 5])
def test_where_there_are_no_namespaces_it_is_refused_by_name(abi: int) -> None:
    refused = pytest.raises(LayerMissingError, match="namespaces, which this policy does without")
    with forced_landlock(abi), Sandbox(preset("default"), namespaces="off") as sandbox, refused as caught:
        sandbox.run(["true"])
    assert "scope_signal" in caught.value.protections
    assert "--allow-degraded" in caught.value.remedy


ARM = """import array, fcntl
def attempt(act, *arguments):
    try: act(*arguments)
    except OSError as error: print(error)
attempt(fcntl.fcntl, 0, fcntl.F_SETSIG, 9)
attempt(fcntl.fcntl, 0, fcntl.F_SETFL, 0o20002)
attempt(fcntl.ioctl, 0, 0x5452, array.array("i", [1]))
print("armed", flush=True)
"""


class Terminal:
    """A terminal, and a process outside that is its foreground group."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        wait = "import sys; sys.stdin.readline(); print('read', flush=True); sys.stdin.readline()"
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", "import fcntl, os; os.setsid(); fcntl.ioctl(0, 0x540E, 0); " + wait],
            stdin=self.slave,
            stdout=subprocess.PIPE,
        )
        for _ in range(2000):
            try:
                if os.tcgetpgrp(self.master) == self.process.pid:
                    break
            except OSError:
                pass
            time.sleep(0.01)

    def type(self) -> int | None:
        """Type a line; returns the signal that ended the process, or None where it has read the line and lives on."""
        os.write(self.master, b"x\n")
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            return -self.process.wait()
        time.sleep(0.2)  # the signal is sent when the line is there to be read
        code = self.process.poll()
        return None if code is None else -code

    def close(self) -> None:
        """End all of it."""
        self.process.kill()
        self.process.communicate()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def new_terminal() -> Any:
    """`new_terminal() -> Terminal`; all end with the test."""
    made: list[Terminal] = []

    def make() -> Terminal:
        made.append(Terminal())
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_ll_16_input_of_a_passed_terminal_signals_nobody_outside(
    box: Box, new_terminal: Callable[[], Terminal]
) -> None:
    """O_ASYNC on a terminal is owned by its foreground group (tty_fasync), which no pid namespace translates."""
    bare = new_terminal()
    subprocess.run([*PYTHON, ARM], stdin=bare.slave, check=True, start_new_session=True, stdout=subprocess.DEVNULL)
    # Whoever armed it must live: the owner's credentials are kept, its descriptor too.
    assert bare.type() == signal.SIGKILL, "bare, a key press kills the process that reads the terminal"
    victim = new_terminal()
    grants = {"fs_readable": [*box.fields()["fs_readable"], *SYSTEM]}
    with box.sandbox(**grants) as sandbox:
        process = sandbox.popen([*PYTHON, ARM + "input()"], stdin=victim.slave, stdout=subprocess.PIPE)
        assert process.stdout is not None
        lines: list[bytes] = []
        while not lines or lines[-1] not in (b"armed\n", b""):
            lines.append(process.stdout.readline())
        assert lines[-1] == b"armed\n", lines
        assert victim.type() is None
        process.kill()
        result = process.wait()
    assert layers(result)["scope_signal"] == ("namespace" if box.world.landlock_abi else "landlock")


def test_ll_16_a_passed_pidfd_signals_nobody_outside(box: Box, new_victim: Callable[[], Victim]) -> None:
    code = "import ctypes, sys, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    code += f"print(libc.syscall({SEND_SIGNAL}, int(sys.argv[1]), 23, None, 0), ctypes.get_errno())"
    control, victim = new_victim(), new_victim()
    before = victim.state()
    fds = [os.pidfd_open(one.pid) for one in (control, victim)]
    try:
        subprocess.run([*PYTHON, code, str(fds[0])], pass_fds=fds, check=True, stdout=subprocess.DEVNULL)
        assert "signals=1" in control.state()
        grants = {"fs_readable": [*box.fields()["fs_readable"], *SYSTEM]}
        with box.sandbox(**grants) as sandbox:
            result = sandbox.run([*PYTHON, code, str(fds[1])], pass_fds=fds)
    finally:
        for fd in fds:
            os.close(fd)
    assert result.stdout.startswith(b"-1 "), (result.stdout, result.stderr)
    assert victim.state() == before


def test_ll_16_the_init_of_the_namespace_is_no_way_out(box: Box) -> None:
    code = "import os, ctypes, signal\nlibc = ctypes.CDLL(None)\n"
    code += "for number in (9, 19, 22, 15, 18):\n  os.kill(1, number)\n"
    code += "print(libc.ptrace(16, 1, 0, 0), libc.ptrace(0x4206, 1, 0, 0), os.getppid(), os.getpid())"
    if box.world.landlock_abi:
        result = python(box, code.replace("(9, 19, 22, 15, 18)", "(9, 19)"))
        assert result.stdout.split()[:3] == [b"-1", b"-1", b"0"], (result.stdout, result.stderr)
        assert layers(result)["tree_kill"] == "namespace"


def test_ll_04_a_file_of_the_caller_is_not_truncated_through_a_stream(box: Box, tree: Tree) -> None:
    target = tree.read / "kept"
    target.write_text("content\n")
    target.chmod(0o666)
    path = "/proc/self/fd/0"
    words = [*call("path", "truncate", path, 0), *call("open", "openat", -100, path, os.O_TRUNC),
             *call("none", "openat", -100, path, os.O_TRUNC | 3)]  # fmt: skip
    with target.open("rb") as stream:
        done = box.bare("invoke", *words, stdin=stream)
    assert b"path 0 0" in done.stdout, done.stdout
    assert target.read_text() == ""
    target.write_text("content\n")
    with target.open("rb") as stream, box.sandbox() as sandbox:
        process = sandbox.popen([box.program("invoke"), *words], stdin=stream, stdout=subprocess.PIPE)
        assert process.stdout is not None
        told = process.stdout.read()
        result = process.wait()
    assert target.read_text() == "content\n", told
    assert [line.split()[1] for line in told.splitlines()] == [b"-1"] * 3
    assert layers(result)["fs_truncate"] == ("seccomp" if box.world.landlock_abi == 2 else "landlock")


def test_ll_04_files_are_truncated_below_write_grants_alone_where_files_are_served(box: Box, tree: Tree) -> None:
    target, own = tree.read / "kept", tree.work / "own"
    target.write_text("content\n")
    own.write_text("content\n")
    (tree.read / "hidden").write_text("hidden\n")
    code = """import os, sys
for act in (lambda path: os.truncate(path, 0), lambda path: os.open(path, os.O_TRUNC),
            lambda path: os.open(path, os.O_TRUNC | 3)):
    for path in sys.argv[1:]:
        try: act(path); print("won")
        except OSError: print("no")
"""
    result = python(box, code, str(target), str(own), fs_denied=[str(tree.read / "hidden")])
    assert target.read_text() == "content\n", (result.stdout, result.stderr)
    assert result.stdout.split()[::2] == [b"no"] * 3, (result.stdout, result.stderr)
    assert result.stdout.split()[1] == b"won"
    assert own.read_text() == ""


@pytest.mark.parametrize("way", ["the device", "a link to it", "its folder", "a link to /"])
def test_ll_05_a_device_that_may_only_be_read_takes_no_ioctl(box: Box, tree: Tree, way: str) -> None:
    words = [
        *call("open", "openat", -100, GRANTS_DEVICE, os.O_NOCTTY),
        *call("it", "ioctl", "@open", READ_NUMBER, "#8"),
    ]
    assert box.bare_lines("invoke", *words)["it"].won
    link, to_root = tree.work.parent / "link-to-a-device", tree.work.parent / "link-to-all"
    link.symlink_to(GRANTS_DEVICE)
    to_root.symlink_to("/")
    ways = {"the device": GRANTS_DEVICE, "a link to it": str(link), "its folder": "/dev", "a link to /": str(to_root)}
    path = ways[way]
    result = box.inside("invoke", *words, fs_readable=[*box.fields()["fs_readable"], path])
    assert b"it -1 " in result.stdout, result.stdout
    assert layers(result)["fs_ioctl_dev"] == ("namespace" if box.world.landlock_abi == 2 else "landlock")
    assert box.lines("invoke", *words, fs_writable=[GRANTS_DEVICE, str(box.work)])["it"].won, "written, it is granted"


def test_ll_05_a_passed_folder_leads_past_the_mounts_and_is_named(box: Box, tree: Tree) -> None:
    folder = os.open(tree.read, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with box.sandbox() as sandbox:
            if box.world.landlock_abi != 2:
                assert layers(sandbox.run([box.program("who")], pass_fds=[folder]))["fs_ioctl_dev"] == "landlock"
                return
            with pytest.raises(LayerMissingError, match="a passed fd is a folder") as caught:
                sandbox.run([box.program("who")], pass_fds=[folder])
        assert caught.value.protections == ("fs_ioctl_dev",)
        with box.sandbox(allow_degraded=["fs_ioctl_dev"]) as sandbox:
            result = sandbox.run([box.program("who")], pass_fds=[folder])
    finally:
        os.close(folder)
    assert {row.name: row.state for row in result.protections}["fs_ioctl_dev"] == "degraded"


def test_ll_16_a_root_without_proc_has_no_pid_namespace_and_is_named(box: Box, tree: Tree) -> None:
    root = tree.root / "another"
    (root / "dev").mkdir(parents=True)
    (root / "dev/null").touch()
    program = Path(box.program("who"))
    (root / "who").write_bytes(program.read_bytes())
    (root / "who").chmod(0o755)
    mounts = []
    for path in ("/usr", "/lib", "/lib64"):
        if os.path.islink(path):
            (root / path[1:]).symlink_to(os.readlink(path))
        elif os.path.isdir(path):
            (root / path[1:]).mkdir()
            mounts.append(f"{path}:{path}")
    fields: dict[str, Any] = {"chroot": str(root), "fs_mount_ro": mounts, "fs_readable": ["/"], "fs_writable": [],
                              "cwd": "/"}  # fmt: skip
    old = box.world.landlock_abi
    with box.sandbox(**fields) as sandbox:
        if old:
            with pytest.raises(LayerMissingError, match="make an empty folder") as caught:
                sandbox.run(["/who"])
            assert caught.value.protections == ("scope_signal",)
        else:
            assert layers(sandbox.run(["/who"]))["scope_signal"] == "landlock"
    with box.sandbox(**fields, allow_degraded=["scope_signal"]) as sandbox:
        result = sandbox.run(["/who"])
    assert result.success, result.stderr
    states = {row.name: row.state for row in result.protections}
    assert (states["scope_signal"], states["tree_kill"]) == (("degraded",) * 2 if old else ("active",) * 2)
    (root / "proc").mkdir()
    with box.sandbox(**fields) as sandbox:
        result = sandbox.run(["/who"])
    assert result.success, result.stderr
    assert layers(result)["scope_signal"] == ("namespace" if old else "landlock")


REACH = """import socket, sys
own = socket.socket(socket.AF_UNIX); own.bind("\\0own-of-the-sandbox"); own.listen()
for name in ("own-of-the-sandbox", sys.argv[1]):
    try: socket.socket(socket.AF_UNIX).connect("\\0" + name); print("reached")
    except OSError as error: print("no")
"""


GIVE = """import os, socket, sys
with socket.socket(socket.AF_UNIX) as out:
    out.connect(sys.argv[1])
    fd = os.open("/proc/self/net/unix", os.O_RDONLY)
    socket.send_fds(out, [b"x"], [fd])
"""
LISTEN = """import socket, sys
own = socket.socket(socket.AF_UNIX); own.bind("\\0" + sys.argv[1]); own.listen()
print(sys.argv[1] in open("/proc/self/net/unix").read(), flush=True); sys.stdin.readline()
"""


def test_no_later_run_gets_a_network_namespace_whose_sockets_somebody_outside_can_list(box: Box, tree: Tree) -> None:
    """Where Unix sockets may be made, an fd of its /proc/net can be handed out, and lists those of the next run."""
    if not box.world.landlock_abi:
        return  # no network namespace is made for it
    name, path = f"secret-{os.getpid()}-{time.monotonic_ns()}", str(tree.work / "out")
    fields: dict[str, Any] = {"disable": ["unix_sockets"]}
    grants = [*box.fields()["fs_readable"], *SYSTEM, "/proc"]
    fds: list[int] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        result = python(box, GIVE, path, more=["/proc"], **fields)
        assert result.success, result.stderr
        with server.accept()[0] as taken:
            fds = socket.recv_fds(taken, 1, 1)[1]
    with open(fds[0], "rb", buffering=0) as listing, box.sandbox(fs_readable=grants, **fields) as sandbox:
        process = sandbox.popen([*PYTHON, LISTEN, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        listing.seek(0)
        seen = listing.readall()
        process.stdin.close()
        process.wait()
    assert seen.startswith(b"Num "), "it is that file"
    assert name.encode() not in seen


@pytest.mark.parametrize("how", ["alone", "served"])
def test_abstract_sockets_of_the_outside_are_out_of_reach(box: Box, how: str) -> None:
    name = f"sandlock-older-{os.getpid()}-{time.monotonic_ns()}"
    fields: dict[str, Any] = {"disable": ["unix_sockets"]}
    if how == "served":
        fields = {"net_allow": ["tcp://127.0.0.1:9"]}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        bare = subprocess.run([*PYTHON, REACH.replace("own-of", f"{name}-of"), name], capture_output=True, check=True)
        assert bare.stdout.split()[1] == b"reached"
        result = python(box, REACH, name, **fields)
    assert result.stdout.split() == [b"reached", b"no"], (result.stdout, result.stderr)
    if box.world.landlock_abi:
        held = {row.name: row.layer for row in result.protections}["scope_abstract"]
        assert held == ("supervisor" if how == "served" else "namespace")


def test_tcp_by_port_alone_is_held_by_the_supervisor_before_landlock_knows_ports(box: Box) -> None:
    code = "import socket, sys\nfor port in sys.argv[1:]:\n"
    code += "  try: socket.create_connection(('127.0.0.1', int(port)), timeout=30); print('reached')\n"
    code += "  except OSError: print('no')"
    with socket.create_server(("127.0.0.1", 0)) as good, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [str(one.getsockname()[1]) for one in (good, other)]
        assert subprocess.run([*PYTHON, code, *ports], capture_output=True, check=True).stdout.count(b"reached") == 2
        result = python(box, code, *ports, net_allow=[f"tcp://:{ports[0]}"], allow_degraded=[])
    assert result.stdout.split() == [b"reached", b"no"], (result.stdout, result.stderr)
    assert layers(result)["net_tcp"] == ("supervisor" if box.world.landlock_abi == 2 else "landlock")


def test_fcntl_stays_what_it_is_but_for_what_is_refused(box: Box) -> None:
    code = "import fcntl, os\nread, write = os.pipe()\n"
    code += "fcntl.fcntl(read, fcntl.F_SETFL, os.O_NONBLOCK); print(fcntl.fcntl(read, fcntl.F_GETFL) & os.O_NONBLOCK)\n"
    code += "fcntl.fcntl(read, fcntl.F_SETOWN, os.getpid())\n"
    code += "try: fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC); print('set')\nexcept OSError as e: print(e.errno)"
    result = python(box, code)
    expected = b"1" if box.world.landlock_abi else b"set"
    assert result.stdout.split() == [str(os.O_NONBLOCK).encode(), expected], result.stderr
    assert fcntl.F_SETOWN == 8
