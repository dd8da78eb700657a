"""The command `sandlock run`, as typed: what fails, with which status and which words."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from attack_lab import alive_with

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandlock_testkit.outsider import Outsider

PATHS = os.pathsep.join(path for path in sys.path if "packages" in path)
Typed = subprocess.CompletedProcess[str]


@pytest.fixture
def sandlock(tmp_path: Path) -> Callable[..., Typed]:
    """`sandlock(words...)`: run the command in an empty folder of the caller."""

    def typed(*words: str, **options: object) -> Typed:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([PATHS, os.environ.get("PYTHONPATH", "")])}
        environment.update(options.pop("env", {}))  # type: ignore[call-overload] # test arguments
        options = {"cwd": tmp_path, "timeout": 60, "env": environment, **options}
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        command = [sys.executable, "-m", "sandlock_cli", *words]
        return subprocess.run(  # type: ignore[call-overload, no-any-return] # whatever the test says
            command, capture_output=True, text=True, check=False, **options
        )

    return typed


def test_a_script_of_the_current_folder_runs(sandlock: Callable[..., Typed], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import json, tempfile\nprint('hello', tempfile.TemporaryFile().fileno() > 2)\n"
    )
    done = sandlock("run", "--", "python3", "script.py")
    assert (done.returncode, done.stdout) == (0, "hello True\n"), done.stderr


def test_shadow_is_not_read(sandlock: Callable[..., Typed]) -> None:
    done = sandlock("run", "--", "cat", "/etc/shadow")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert done.stdout == ""
    assert "--fs-read" in done.stderr or "-r " in done.stderr, "the hint names the flag"


def test_a_private_file_of_the_caller_is_not_read(
    sandlock: Callable[..., Typed], tmp_path_factory: pytest.TempPathFactory
) -> None:
    private = tmp_path_factory.mktemp("private") / "key"
    private.write_text("secret")
    done = sandlock("run", "--", "cat", str(private))
    assert done.returncode == 1
    assert "secret" not in done.stdout
    assert sandlock("run", "-r", str(private.parent), "--", "cat", str(private)).stdout == "secret"


@pytest.mark.parametrize(
    "target", ["/root/x", "/etc/x", "/usr/x", "made", "/tmp/sandlock-test-x", "/var/tmp/sandlock-test-x"]
)
def test_nothing_is_written_outside_the_private_folder(
    sandlock: Callable[..., Typed], tmp_path: Path, target: str
) -> None:
    done = sandlock("run", "--", "python3", "-c", f"open({target!r}, 'w')")
    assert done.returncode == 1
    assert any(word in done.stderr for word in ("PermissionError", "Read-only file system", "FileNotFoundError")), (
        done.stderr
    )
    assert not os.path.exists(tmp_path / target)
    assert "--fs-write" in done.stderr or "-w " in done.stderr, "the hint names the flag"


def test_a_write_grant_is_a_write_grant(sandlock: Callable[..., Typed], tmp_path: Path) -> None:
    done = sandlock("run", "-w", ".", "--", "python3", "-c", "open('made', 'w').write('x')")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made").read_text() == "x"


@pytest.mark.needs("landlock", level=6)
def test_the_parent_survives(sandlock: Callable[..., Typed], outsider: Outsider) -> None:
    done = sandlock("run", "--", "sh", "-c", "kill -9 $PPID; echo status $?")
    assert done.stdout == "status 1\n", (done.stdout, done.stderr)
    assert done.returncode == 0
    assert "not permitted" in done.stderr
    done = sandlock(
        "run", "--", "sh", "-c", f"kill -9 {outsider.pid}; kill -9 {os.getpid()}; kill -TERM -1; echo alive"
    )
    assert "alive" in done.stdout
    assert outsider.alive()


def test_connections_are_refused(sandlock: Callable[..., Typed]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(0.2)
        script = (
            "import socket, errno\n"
            f"for f, a in ((socket.AF_INET, ('127.0.0.1', {port})), (socket.AF_INET6, ('::1', {port}))):\n"
            "    try: socket.socket(f).connect(a); print('reached')\n"
            "    except OSError as e: print(errno.errorcode[e.errno])\n"
        )
        done = sandlock("run", "--", "python3", "-c", script)
        assert set(done.stdout.split()) <= {"EACCES", "EPERM", "ECONNREFUSED"}, done
        with pytest.raises(TimeoutError):
            server.accept()
        uncaught = sandlock(
            "run", "--", "python3", "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        )
        assert uncaught.returncode == 1
        assert "--net-allow" in uncaught.stderr, "the hint names the flag"


def test_a_granted_port_is_reached(sandlock: Callable[..., Typed]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(5)
        script = f"import socket; socket.create_connection(('127.0.0.1', {port})).send(b'x')"
        done = sandlock("run", "--net-allow", f"tcp://*:{port}", "--", "python3", "-c", script)
        assert done.returncode == 0, done.stderr
        assert server.accept()[0].recv(1) == b"x"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["sh", "-c", "exit 0"], 0), (["sh", "-c", "exit 7"], 7), (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "kill -9 $$"], 137), (["sh", "-c", "kill -15 $$"], 143), (["sh", "-c", "kill -11 $$"], 139),
        (["/no/such/thing"], 127), (["no-such-thing"], 127), (["./plain"], 126), (["./folder"], 126),
    ],
)  # fmt: skip
def test_exit_statuses(sandlock: Callable[..., Typed], tmp_path: Path, words: list[str], status: int) -> None:
    (tmp_path / "plain").write_text("x")
    (tmp_path / "folder").mkdir()
    done = sandlock("run", "--", *words)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


def test_exit_status_of_a_timeout_and_of_a_failed_setup(sandlock: Callable[..., Typed], tmp_path: Path) -> None:
    started = time.monotonic()
    assert sandlock("run", "-t", "0.5", "--", "sleep", "20").returncode == 124
    assert time.monotonic() - started < 10
    for words in (
        ["-w", "/no/such/folder"],
        ["--cwd", "/no/such/folder"],
        ["-r", "/no/such/folder"],
        ["--max-memory", "1G", "--no-supervisor"],
    ):
        done = sandlock("run", *words, "--", "true")
        assert done.returncode == 125, (words, done.returncode, done.stderr)
        assert "Traceback" not in done.stderr
        assert words[-1] in done.stderr or words[0] in done.stderr or "limits.memory" in done.stderr, done.stderr
    assert sandlock("run", "--no-such-flag", "--", "true").returncode in {2, 125}


def test_json_is_one_object_on_a_stream_of_its_own(sandlock: Callable[..., Typed]) -> None:
    done = sandlock("run", "--json", "--", "sh", "-c", "echo out; exit 3")
    texts = [line for stream in (done.stdout, done.stderr) for line in stream.splitlines() if line.startswith("{")]
    told = json.loads(texts[-1]) if texts else json.loads(done.stdout)
    assert told["exit_code"] == 3
    assert str(told["reason"]).upper() == "EXITED"
    assert done.returncode == 3


def test_asyncio_is_not_imported_on_the_way_to_a_program(sandlock: Callable[..., Typed]) -> None:
    done = sandlock("run", "--", "true", env={"PYTHONPROFILEIMPORTTIME": "1"})
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert any(name.startswith("sandlock_cli") for name in imported), "the trace is there"
    heavy = {
        "asyncio",
        "typing",
        "dataclasses",
        "argparse",
        "re",
        "enum",
        "tomllib",
        "subprocess",
        "socket",
        "pathlib",
        "threading",
        "logging",
    }
    assert imported & heavy == set()


def test_the_environment_is_clean(sandlock: Callable[..., Typed]) -> None:
    done = sandlock(
        "run",
        "--env",
        "GIVEN=1",
        "--env",
        "PASSED",
        "--",
        "env",
        env={"TOKEN_X": "canary", "PASSED": "yes", "LD_AUDIT": ""},
    )
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert "canary" not in done.stdout
    assert {"GIVEN", "PASSED", "PATH", "HOME"} <= names
    assert names.isdisjoint({"TOKEN_X", "PYTHONPATH", "LD_AUDIT"})


def test_the_control_characters_of_a_name_are_escaped(sandlock: Callable[..., Typed]) -> None:
    done = sandlock("run", "--", "/no/such/\x1b]52;c;eA==\x07thing")
    assert done.returncode == 127
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_to_the_command_ends_the_tree(
    program: Callable[[str], str], mark: str, tmp_path: Path, number: signal.Signals
) -> None:
    tool = program("outlive")
    process = subprocess.Popen(
        [sys.executable, "-m", "sandlock_cli", "run", "-r", os.path.dirname(tool), "--",
         "sh", "-c", f"{tool} family {mark} 20; while :; do sleep 0.1; done"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([PATHS, os.environ.get("PYTHONPATH", "")])},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path,
        start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 10
        while len(alive_with(mark)) < 22 and time.monotonic() < end:
            time.sleep(0.02)
        assert len(alive_with(mark)) >= 20
        process.send_signal(number)
        process.wait(timeout=8)
        end = time.monotonic() + 1
        while alive_with(mark) and time.monotonic() < end:
            time.sleep(0.01)
        assert alive_with(mark) == {}
        assert process.returncode in {128 + number, -number}
    finally:
        process.kill()
        process.communicate()


def test_the_callers_terminal_settings_and_stdin_are_its_own(sandlock: Callable[..., Typed]) -> None:
    done = sandlock("run", "--", "cat", input="through\n")
    assert done.stdout == "through\n"
