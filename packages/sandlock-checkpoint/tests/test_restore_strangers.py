"""Programs that know nothing of checkpoints: a terminal session, a database server; and the view from outside."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_lab import Lab, build, state_of, wait_until

from sandlock_checkpoint import CaptureError, capture

pytestmark = pytest.mark.needs("ptrace")


def read_until(terminal: int, text: bytes, patience_s: float = 30.0) -> bytes:
    """Read what a terminal shows until `text` is in it."""
    shown = b""
    deadline = time.monotonic() + patience_s
    while text not in shown:
        assert time.monotonic() < deadline, f"waited for {text!r}: {shown!r}"
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096)
    return shown


def test_an_interpreter_in_a_terminal_goes_on_in_another(lab: Lab) -> None:
    """Its terminal is taken on by name; another one stands in its place, and the session's variables are there."""
    pid, terminal = pty.fork()
    if not pid:
        os.closerange(3, 256)
        os.environ["TERM"] = "dumb"
        os.execv(sys.executable, [sys.executable, "-q"])  # noqa: S606 - the program under test
    try:
        read_until(terminal, b">>> ")
        os.write(terminal, b"import secrets; word = secrets.token_hex(8); print('<' + word + '>')\n")
        (word,) = re.findall(rb"<([0-9a-f]{16})>", read_until(terminal, b">\r\n>>> "))
        with pytest.raises(CaptureError) as caught:
            capture(pid)
        assert {one.kind for one in caught.value.unsupported} == {"tty"}
        checkpoint = lab.keep(pid, allow={"tty"})
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    finally:
        os.close(terminal)
    ours, theirs = pty.openpty()
    with checkpoint:
        restored = lab.restore(checkpoint, descriptors={0: theirs, 1: theirs, 2: theirs})
    os.close(theirs)
    os.write(ours, b"print('[' + word + ']')\n")
    read_until(ours, b"[" + word + b"]")
    os.write(ours, b"raise SystemExit(7)\n")
    assert lab.finish(restored) == 7
    os.close(ours)


class Redis:
    """A client of a Redis server: a list of words is a command, the reply one line or one string."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._file = self._socket.makefile("rb")

    def ask(self, *words: str) -> bytes:
        """Send one command and return its reply."""
        self.send(words)
        return self.reply()

    def send(self, words: tuple[str, ...]) -> None:
        """Send one command."""
        self._socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))

    def reply(self) -> bytes:
        """Read one reply."""
        line = self._file.readline().rstrip()
        if line.startswith(b"$") and line != b"$-1":
            return self._file.read(int(line[1:]) + 2)[:-2]
        return line

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()


def connected(port: int) -> Redis:
    """Return a client as soon as the server answers."""
    clients: list[Redis] = []

    def try_it() -> bool:
        try:
            clients.append(Redis(port))
        except ConnectionRefusedError:
            return False
        return True

    wait_until(try_it, f"a server at port {port}")
    return clients[0]


FILL = "for i = 1, 100000 do redis.call('set', 'key:' .. i, 'value ' .. i * 7) end return redis.call('dbsize')"
CHECK = (
    "local right = 0 for i = 1, 100000 do if redis.call('get', 'key:' .. i) == 'value ' .. i * 7 then "
    "right = right + 1 end end return right"
)


@pytest.mark.needs("command:redis-server")
@pytest.mark.needs("ipv4")
def test_a_database_server_with_many_keys_answers_again(lab: Lab) -> None:
    """Nobody told it of the capture: threads, epoll, clocks; the listening socket is opened anew by choice."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = shutil.which("redis-server") or ""
    running = lab.start(
        [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", lab.folder, "--daemonize", "no"]
    )
    client = connected(port)
    assert client.ask("EVAL", FILL, "0") == b":100000"
    run_id = re.search(rb"run_id:(\w+)", client.ask("INFO", "server"))
    assert run_id
    client.close()
    with pytest.raises(CaptureError) as caught:
        capture(running.pid)
    assert {one.kind for one in caught.value.unsupported} <= {"listening_socket", "tcp_socket"}
    wait_until(lambda: kinds(running.pid) == {"listening_socket"}, "the end of the client's connection")
    with lab.take(running, allow={"listening_socket"}) as checkpoint:
        assert len(checkpoint.processes[0].threads) > 1
        restored = lab.restore(checkpoint)
    client = connected(port)
    assert client.ask("EVAL", CHECK, "0") == b":100000"
    assert run_id[0] in client.ask("INFO", "server")
    assert client.ask("SET", "after", "all") == b"+OK"
    client.send(("SHUTDOWN", "NOSAVE"))
    assert lab.finish(restored) == 0
    client.close()


def kinds(pid: int) -> set[str]:
    """What stands against a capture."""
    try:
        capture(pid).close()
    except CaptureError as error:
        return {one.kind for one in error.unsupported}
    return set()


# What ps(1), gdb(1) and their like read; the rest of /proc counts time or memory of the kernel.
SHOWN = ("maps", "cmdline", "environ", "auxv", "comm", "limits", "personality")
LINKS = ("exe", "cwd", "root")
STATUS = ("Name", "Umask", "Uid", "Gid", "Groups", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt",
          "NoNewPrivs")  # fmt: skip


LOOKED_AT = """
import os, resource, signal, time
os.umask(0o27); os.chdir("/usr"); resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))
signal.signal(signal.SIGUSR1, signal.SIG_IGN); signal.signal(signal.SIGUSR2, print)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP]); os.kill(os.getpid(), signal.SIGHUP)
print("ready", flush=True); time.sleep(60)
"""


def looks(pid: int) -> dict[str, object]:
    """What /proc shows of a process that is its own and not its kernel's."""
    folder = Path(f"/proc/{pid}")
    found: dict[str, object] = {name: (folder / name).read_bytes() for name in SHOWN}
    found |= {name: os.readlink(folder / name) for name in LINKS}
    rows = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return found | {name: rows[name] for name in STATUS}


def test_a_restored_process_looks_as_it_did(lab: Lab) -> None:
    """Its map, arguments, environment and settings are those of before, to whoever looks with a debugger."""
    running = lab.start(
        [sys.executable, "-c", LOOKED_AT],
        env={"PATH": os.environ["PATH"], "SHOWN": "yes"},
        process_group=0,
    )
    running.wait_for("ready")
    time.sleep(0.05)
    before = looks(running.pid)
    with lab.take(running) as checkpoint:
        restored = lab.restore(checkpoint)
    assert looks(restored.pid) == before


def debugged(pid: int) -> tuple[list[str], list[str]]:
    """What gdb says of a process's registers, and of who called whom."""
    command = ["gdb", "--nx", "--batch", "-iex", "set sysroot /", "-p", str(pid)]
    command += ["-ex", "info registers", "-ex", "echo calls\\n", "-ex", "bt"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    before, _, calls = told.partition("\ncalls\n")
    registers = [line for line in before.splitlines() if re.match(r"[a-z][a-z0-9_]+ +0x[0-9a-f]+ ", line)]
    return registers, [line for line in calls.splitlines() if line.startswith("#")]


@pytest.mark.needs("command:gdb")
@pytest.mark.parametrize("call", ["read", "pause"])
def test_a_debugger_sees_the_same_before_and_after(lab: Lab, programs: Path, call: str) -> None:
    """Registers and calls, of a program that waits in the kernel."""
    flag = lab.folder / "flag"
    running = lab.start([build(programs, "blocked", "-g"), call, flag])
    running.wait_for("ready")
    wait_until(lambda: state_of(running.pid) == "S", "its waiting")
    time.sleep(0.05)
    registers, calls = debugged(running.pid)
    assert len(registers) > 20
    assert any("main" in line for line in calls)
    with lab.take(running) as checkpoint:
        restored = lab.restore(checkpoint)
    wait_until(lambda: state_of(restored.pid) == "S", "its waiting")
    assert debugged(restored.pid) == (registers, calls)
