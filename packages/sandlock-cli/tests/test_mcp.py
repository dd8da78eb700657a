"""`sandlock mcp`: the protocol as a client speaks it, and that nothing in a call changes the confinement."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Typed

pytestmark = pytest.mark.needs("landlock", level=2)


class Client:
    """Speaks to a server that it starts."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sandlock_cli", "mcp", *words],
            cwd=folder,
            env={**os.environ, "HOME": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._last = 0

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def send(self, method: str, **parameters: object) -> int:
        self._last += 1
        self.write(json.dumps({"jsonrpc": "2.0", "id": self._last, "method": method, "params": parameters}).encode())
        return self._last

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        key = self.send(method, **parameters)
        answer = self.read()
        assert answer["id"] == key
        return answer

    def call(self, name: str, **arguments: object) -> dict[str, Any]:
        answer = self.ask("tools/call", name=name, arguments=arguments)
        result: dict[str, Any] = answer.get("result") or answer["error"]
        return result

    def close(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        status = self.process.wait(60)
        self.process.stdout.close()
        return status


@contextlib.contextmanager
def client(folder: Path, *words: str) -> Iterator[Client]:
    started = Client(folder, *words)
    try:
        yield started
        assert started.close() == 0
    finally:
        started.process.kill()
        started.process.wait()


def test_a_client_gets_two_tools_and_runs_them(tmp_path: Path) -> None:
    with client(tmp_path) as mcp:
        hello = mcp.ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "t"})["result"]
        assert hello["protocolVersion"] == "2025-06-18"
        assert mcp.ask("initialize", protocolVersion="1999-01-01")["result"]["protocolVersion"] == "2025-11-25"
        mcp.write(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}')
        tools = mcp.ask("tools/list")["result"]["tools"]
        assert [tool["name"] for tool in tools] == ["run_command", "run_python"]
        assert all(tool["inputSchema"]["additionalProperties"] is False for tool in tools)
        assert mcp.ask("ping")["result"] == {}
        told = mcp.call("run_python", code="print(6 * 7)")
        assert told["structuredContent"]["stdout"] == "42\n"
        assert (told["isError"], "42" in told["content"][0]["text"]) == (False, True)
        told = mcp.call("run_command", command=["sh", "-c", "cat; exit 3"], stdin="text")["structuredContent"]
        assert (told["stdout"], told["exit_code"]) == ("text", 3)


def test_the_policy_of_the_server_holds_and_no_argument_changes_it(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    with client(inside, "--preset", "default", "-w", str(inside)) as mcp:
        wrote = mcp.call("run_command", command=["touch", str(inside / "made")])
        assert not wrote["isError"], "the control"
        assert mcp.call("run_command", command=["touch", str(outside / "made")])["isError"]
        assert not (outside / "made").exists()
        extras: list[dict[str, object]] = [
            {"fs_writable": ["/"]}, {"policy": {}}, {"preset": "none"}, {"env": {}}, {"cwd": "/"}
        ]  # fmt: skip
        for extra in extras:
            told = mcp.call("run_command", command=["touch", str(outside / "made")], **extra)
            assert told["code"] == -32602
            assert "the policy was chosen when the server was started" in told["message"]
        assert not (outside / "made").exists()


def test_output_and_time_are_bounded(tmp_path: Path) -> None:
    with client(tmp_path, "--max-output", "1K", "-t", "2") as mcp:
        told = mcp.call("run_command", command=["head", "-c", "100000", "/dev/zero"])["structuredContent"]
        assert (len(told["stdout"]), told["stdout_dropped"]) == (1024, 100000 - 1024)
        assert mcp.call("run_command", command=["true"], timeout_s=10**400)["structuredContent"]["reason"] == "EXITED"
        told = mcp.call("run_command", command=["sleep", "100"], timeout_s=1000)["structuredContent"]
        assert told["reason"] == "TIMEOUT"


def test_a_call_can_be_cancelled_and_others_go_on(tmp_path: Path) -> None:
    with client(tmp_path) as mcp:
        key = mcp.send("tools/call", name="run_command", arguments={"command": ["sleep", "50"]})
        assert mcp.call("run_command", command=["echo", "x"])["structuredContent"]["stdout"] == "x\n"
        mcp.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled",
                              "params": {"requestId": key}}).encode())  # fmt: skip
        assert mcp.ask("ping")["result"] == {}, "no answer to what was cancelled"


def test_what_is_refused_waits_for_nobody_and_is_not_kept(tmp_path: Path) -> None:
    """A message grows to twenty times its size in memory, and dozens of calls may wait."""
    with client(tmp_path) as mcp:
        for _ in range(8):
            mcp.send("tools/call", name="run_command", arguments={"command": ["sleep", "50"]})
        for _ in range(3):
            mcp.write(b'{"jsonrpc":"2.0","id":"bad","method":"tools/call","params":{"name":"run_command","arguments":'
                      b'{"command":[' + b"[]," * 1_000_000 + b"[]]}}}")  # fmt: skip
            assert mcp.read()["id"] == "bad"


def test_what_runs_is_killed_when_the_client_goes(tmp_path: Path) -> None:
    with client(tmp_path, "--preset", "default", "-w", str(tmp_path)) as mcp:
        mcp.send("tools/call", name="run_command", arguments={"command": ["sh", "-c", "echo > up; sleep 50"]})
        for _ in range(600):
            if (tmp_path / "up").exists():
                break
            assert mcp.ask("ping")["result"] == {}
            subprocess.run(["sleep", "0.05"], check=True)
        assert (tmp_path / "up").exists()
        assert mcp.close() == 0


NONSENSE = [
    (b"{", -32700),
    (b"[" * 100_000, -32700),
    (b"\xff\xfe", -32700),
    (b"[]", -32600),
    (b'{"id": 1, "method": "ping"}', -32600),
    (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', -32600),
    (b'{"jsonrpc": "2.0", "id": {}, "method": "ping"}', -32600),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}', -32602),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "no/such"}', -32601),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 1}}', -32602),
    (b" " * (4 << 20) + b"{}", -32600),
]


def test_nonsense_is_answered_and_the_server_lives(tmp_path: Path) -> None:
    with client(tmp_path) as mcp:
        for line, code in NONSENSE:
            mcp.write(line)
            assert mcp.read()["error"]["code"] == code, line[:80]
            assert mcp.ask("ping")["result"] == {}


def test_bad_arguments_are_told_by_name(tmp_path: Path) -> None:
    bad: list[tuple[str, dict[str, object], str]] = [
        ("no_tool", {}, "run_python"),
        ("run_command", {}, "command"),
        ("run_command", {"command": "ls"}, "command"),
        ("run_command", {"command": ["a\0b"]}, "NUL"),
        ("run_command", {"command": ["ls"], "timeout_s": "9"}, "timeout_s"),
        ("run_command", {"command": ["ls"], "timeout_s": -1}, "timeout_s"),
        ("run_command", {"command": ["ls"], "stdin": 1}, "stdin"),
        ("run_python", {"code": "#" * 200_000}, "longer"),
    ]
    with client(tmp_path) as mcp:
        for name, arguments, said in bad:
            told = mcp.call(name, **arguments)
            assert told["code"] == -32602
            assert said in told["message"]
        told = mcp.call("run_command", command=["no-such-program"])
        assert told["isError"]
        assert "no-such-program" in told["content"][0]["text"]


@pytest.mark.parametrize(
    ("words", "status"), [(["ls"], 2), (["--max-output", "x"], 2), (["--max-output", "1G"], 2), (["-t", "x"], 125)]
)
def test_a_server_that_cannot_be_is_refused_at_once(sandlock: Typed, words: list[str], status: int) -> None:
    done = sandlock("mcp", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("sandlock: ")
