"""Kernel calls of the parts that serve a call by something else than an answer: each failure denies, and nobody waits.

Tracing at an exec, sock_diag, the pairs behind netlink sockets, deputies. The others are in test_supervisor_faults.py.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest
from netlab import run, serve
from supervision import PYTHON, Table, supervise, table

from sandlock_arch import native
from sandlock_notif import Action, Delegate, Errno, Request, Trap
from sandlock_notif.handlers.exec import ExecTable, read_command
from sandlock_notif.handlers.network import inside, netlink
from sandlock_sys import ptrace
from sandlock_sys.deputy import Deputy
from sandlock_sys.errors import SyscallError

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("pidfd", level=2),
    pytest.mark.usefixtures("leaks"),
]


class Failing:
    """Stands in for a function, whose `nth` call fails with EIO, or each one."""

    def __init__(self, owner: Any, name: str, nth: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = getattr(owner, name)

        def call(*words: Any, **more: Any) -> Any:
            self.count += 1
            if nth is None or self.count == nth + 1:
                raise SyscallError(name, errno.EIO)
            return real(*words, **more)

        monkeypatch.setattr(owner, name, call)


EXECS = """
import os, sys
for word in ("good", "evil", "good", "evil", "good"):
    pid = os.fork()
    if not pid:
        try: os.execv("/bin/echo", ["echo", word])
        except OSError as error: os._exit(error.errno)
    status = os.waitpid(pid, 0)[1]
    print(word, os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("name", ["seize", "interrupt", "wait", "detach"])
def test_an_exec_whose_tracing_fails_is_denied_or_killed_and_the_next_one_is_followed(
    name: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def judge(request: Request) -> Action | None:
        return Errno(errno.EACCES) if b"evil" in read_command(request, at=False).arguments else None

    judged = Table((Trap("execve", judge, "judged"),))
    command = [PYTHON, "-I", "-S", "-c", EXECS]
    whole = supervise(command, judged, ExecTable(verify=True)).output.decode().splitlines()
    assert whole == ["good", "good 0", "evil 13", "good", "good 0", "evil 13", "good", "good 0"]
    failing = Failing(ptrace, name, nth, monkeypatch)
    outcome = supervise(command, judged, ExecTable(verify=True))
    lines = outcome.output.decode().splitlines()
    assert "evil" not in lines
    ends = [line.split()[1] for line in lines if line[4:5] == " "]
    assert len(ends) == 5, lines
    assert {ends[1], ends[3]} == {"13"}
    assert sorted([ends[0], ends[2], ends[4]])[:2] in (["0", "0"], ["-9", "0"]), lines  # one failed, and no other
    assert failing.count


PTRACE = ("seize", "interrupt", "wait", "detach", "cont")


@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("names", [("wait",), ("interrupt", "wait", "detach", "cont"), PTRACE], ids="+".join)
def test_where_tracing_fails_from_some_moment_on_nobody_waits_for_ever(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead tracee that its tracer does not wait for is buried by nobody: its thread has to end."""
    broken = [False]

    def breaking(name: str) -> None:
        real = getattr(ptrace, name)

        def call(*words: Any, **more: Any) -> Any:
            if broken[0]:
                raise SyscallError(f"ptrace {name}", errno.EIO)
            return real(*words, **more)

        monkeypatch.setattr(ptrace, name, call)

    async def judge(request: Request) -> Action | None:
        broken[0] = broken[0] or b"evil" in read_command(request, at=False).arguments
        return Errno(errno.EACCES) if b"evil" in read_command(request, at=False).arguments else None

    for name in names:
        breaking(name)
    judged = Table((Trap("execve", judge, "judged"),))
    outcome = supervise([PYTHON, "-I", "-S", "-c", EXECS], judged, ExecTable(verify=True))
    lines = outcome.output.decode().splitlines()
    assert lines[:3] == ["good", "good 0", "evil 13"]
    end = "good 1" if "seize" in names else "good -9"  # refused, or killed, since it could not be looked at
    assert lines[3:] == [end, "evil 13", end]


@pytest.mark.parametrize("nth", [0, None])
@pytest.mark.parametrize("name", ["__init__", "owner"])
def test_a_port_whose_owner_cannot_be_told_is_nobodys(
    name: str, nth: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
server = socket.create_server(("127.0.0.1", 0)); port = server.getsockname()[1]
def own():
    with socket.create_connection(("127.0.0.1", port)): return "own"
tell(own); tell(own)
tell(tcp("127.0.0.1", {other}))
"""
    with serve() as other:
        code = code.replace("{other}", str(other.port))
        fields: dict[str, Any] = {"net_allow_bind": ["0"], "net_allow": ["tcp://192.0.2.1:9"]}
        assert run(code, **fields).output.split() == [b"own", b"own", b"ECONNREFUSED"]
        failing = Failing(inside.SocketDiagnosis, name, nth, monkeypatch)
        told = run(code, **fields).output.split()
        assert failing.count
        assert told[0] != b"own"
        assert told[1:] == ([b"own"] if nth == 0 else [told[0]]) + [told[2]]
        assert told[2] in {b"ECONNREFUSED", b"EIO", b"EPERM", b"EACCES"}
        assert not other.connections


@pytest.mark.parametrize("name", ["socketpair", "_name"])
def test_a_netlink_socket_that_cannot_be_stood_in_for_is_not_the_kernels(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
def ask():
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    s.bind((0, 0)); return s.getsockname()[0] > 1 << 19
tell(ask); tell(ask)
"""
    assert run(code, net_allow=["tcp://192.0.2.1:9"]).output.split() == [b"True", b"True"]
    owner: Any = socket if name == "socketpair" else netlink
    real = getattr(owner, name)
    failed: list[str] = []

    def once(*words: Any, **more: Any) -> Any:
        if words[:2] != (socket.AF_UNIX, socket.SOCK_SEQPACKET) and name == "socketpair":
            return real(*words, **more)
        if not failed:
            failed.append(name)
            raise SyscallError(name, errno.EMFILE)
        return real(*words, **more)

    monkeypatch.setattr(owner, name, once)
    told = run(code, net_allow=["tcp://192.0.2.1:9"]).output.split()
    assert told[0] in {b"EMFILE", b"EPERM", b"EACCES"}
    assert told[1] == b"True"
    assert failed


@pytest.mark.parametrize("nth", [0, None])
@pytest.mark.parametrize("name", ["start", "submit", "restrict_self"])
def test_a_deputy_that_cannot_work_makes_nothing(
    name: str, nth: int | None, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is not confined it must not be asked either: what it would do is not judged."""
    made = os.path.join(tmp_path, "made")
    action = Delegate(native().syscalls["mkdirat"], (-100, made.encode() + b"\0", 0o700))
    served = table("getsid", lambda _: action)
    code = """
import os, errno
for _ in range(2):
    try: print(os.getsid(0))
    except OSError as error: print(errno.errorcode[error.errno], flush=True)
"""
    command, grants = [PYTHON, "-I", "-S", "-c", code], [(b"/", 1 << 0 | 1 << 2 | 1 << 3)]
    assert supervise(command, served, grants=grants).output.split() == [b"EACCES", b"EACCES"]
    failing = Failing(Deputy, name, nth, monkeypatch)
    told = supervise(command, served, grants=grants).output.split()
    assert failing.count
    assert set(told) <= {b"EPERM", b"EACCES", b"EIO"}
    assert len(told) == 2
    assert nth is None or told[1] == b"EACCES", "the next one was asked, and judged"
    assert not os.path.exists(made)
