"""Standard streams: where they go, what the caller keeps, what stays as it was."""

from __future__ import annotations

import os
import pty
import socket
import stat
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from runtime_lab import PYTHON, SYSTEM, box, in_child

from sandlock_runtime import DEVNULL, INHERIT, PIPE, STDOUT
from sandlock_runtime.streams import Streams, exposes
from sandlock_sys.spawn import NULL_DEVICE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandlock_testkit.tree import Tree

pytestmark = pytest.mark.usefixtures("leaks")


def test_the_names_are_those_of_subprocess() -> None:
    assert (PIPE, STDOUT, DEVNULL, INHERIT) == (subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL, None)


def test_files_and_fds_are_streams(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("from a file\n")
    with open(source, "rb") as stdin, open(target, "wb") as stdout:
        box().popen(["sh", "-c", "cat; echo err >&2"], stdin=stdin, stdout=stdout.fileno(), stderr=STDOUT).wait(10)
        assert not stdin.closed and not stdout.closed
    assert target.read_text() == "from a file\nerr\n"
    with open(source, "rb") as stdin:
        assert box().run(["cat"], stdin=stdin).stdout == b"from a file\n"


@pytest.mark.parametrize("place", [0, 1])
def test_stdout_means_the_place_of_stdout_and_is_for_stderr_only(place: int) -> None:
    streams: list[Any] = [None, None, None]
    streams[place] = STDOUT
    with pytest.raises(ValueError, match="for stderr only"):
        box().popen(["true"], *streams)


def test_a_bad_fd_is_told_and_nothing_is_left() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        box().popen(["true"], stdin=PIPE, stdout=PIPE, stderr=987)


LISTENS = """
import ctypes, socket
socket.socket(socket.AF_UNIX).close()
given = socket.socket(fileno=0)
assert not ctypes.CDLL(None).connect(0, bytes(16), 16)
try:
    given.listen()
    print(given.getsockname()[1])
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.needs("landlock", level=6)
def test_a_connection_that_was_given_becomes_no_listening_port() -> None:
    """SEC: dissolved by AF_UNSPEC it took a port of its own, where the program had Unix sockets and no network."""

    def told(run: Callable[[socket.socket], bytes]) -> str:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()),
            server.accept()[0] as given,
        ):
            return run(given).decode().strip()

    command = [*PYTHON, LISTENS]
    assert told(lambda given: subprocess.check_output(command, stdin=given.fileno())).isdigit()
    with box(disable=["unix_sockets"]) as sandbox:

        def inside(given: socket.socket) -> bytes:
            with sandbox.popen(command, stdin=given, stdout=PIPE) as process:
                return process.communicate(timeout=20)[0]

        assert told(inside) == "Operation not permitted"


def test_devnull_is_opened_inside() -> None:
    """An fd of the host's would let root's program change the mode of the node."""
    before = os.stat("/dev/null")
    attempt = "try: os.fchmod(n, 0o600)\n except OSError as e: os.write(2, b'%d' % e.errno)"
    code = f"import os\nfor n in (0, 1):\n {attempt}"
    with box().popen([*PYTHON, code], stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE) as process:
        assert process.communicate()[1] in (b"11", b"3030")
    after = os.stat("/dev/null")
    assert (after.st_mode, after.st_ctime_ns) == (before.st_mode, before.st_ctime_ns)
    with open("/dev/null", "r+b") as null:
        made = Streams(null, null, STDOUT)
        assert made.child[:2] == (NULL_DEVICE, NULL_DEVICE)
        made.close()


def test_swapped_streams_are_swapped() -> None:
    def swap() -> tuple[bytes, bytes]:
        ends = [os.pipe(), os.pipe()]
        os.dup2(ends[0][1], 1)
        os.dup2(ends[1][1], 2)
        box().popen(["sh", "-c", "printf out; printf err >&2"], stdin=DEVNULL, stdout=2, stderr=1).wait(10)
        return os.read(ends[0][0], 100), os.read(ends[1][0], 100)

    assert in_child(swap) == (b"err", b"out")


def test_stderr_into_the_inherited_stdout() -> None:
    def run() -> bytes:
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        box().popen(["sh", "-c", "printf out; printf err >&2"], stdin=DEVNULL, stderr=STDOUT).wait(10)
        return os.read(reader, 100)

    assert in_child(run) == b"outerr"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)], ids=str)
def test_a_caller_without_streams_can_run_and_pass_on(closed: tuple[int, ...]) -> None:
    code = "read line; echo out $line; echo err >&2"

    def run() -> tuple[bytes, bytes, int, list[int]]:
        for fd in closed:
            os.close(fd)
        result = box().run(["sh", "-c", code], input=b"in\n")
        left = [fd for fd in range(3) if fd in closed and os.path.exists(f"/proc/self/fd/{fd}")]
        # What the caller lacks the program gets as /dev/null, never as another file that has the number.
        inherited = box().popen(["sh", "-c", "cat; echo x; echo y >&2"], stdin=None if 0 in closed else DEVNULL)
        return result.stdout, result.stderr, inherited.wait(10).exit_code, left

    assert in_child(run) == (b"out in\n", b"err\n", 0, [])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_file_that_took_the_number_of_a_closed_stream_is_no_stream(number: int) -> None:
    """What Python opens is close-on-exec: a pipe of the caller's own must not become the program's stdin."""

    def run(*, inheritable: bool) -> tuple[int, bool]:
        os.close(number)
        reader, writer = os.pipe()  # one of them has the number now
        assert number in (reader, writer)
        os.set_inheritable(number, inheritable)
        code = f"import os; s = os.fstat({number}); os._exit(s.st_ino == {os.fstat(reader).st_ino})"
        streams = [None if stream == number else DEVNULL for stream in range(3)]
        result = box().popen([*PYTHON, code], *streams).wait(10)
        return result.exit_code, number in (reader, writer)

    assert in_child(lambda: run(inheritable=False)) == (0, True)
    assert in_child(lambda: run(inheritable=True)) == (1, True)  # who wants it handed on can say so


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_nonblocking_stream_is_made_blocking_again(number: int) -> None:
    reader, writer = os.pipe()
    mine, other = (reader, writer) if number == 0 else (writer, reader)
    streams: list[Any] = [DEVNULL, DEVNULL, DEVNULL]
    streams[number] = mine
    try:
        code = f"import os; os.set_blocking({number}, False); os._exit(os.get_blocking({number}))"
        assert box().popen([*PYTHON, code], *streams).wait(10).exit_code == 0
        assert os.get_blocking(mine)
    finally:
        os.close(mine)
        os.close(other)


def test_flags_that_the_caller_had_set_stay() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        code = "import os; os.set_blocking(1, True)"
        assert box().popen([*PYTHON, code], stdin=DEVNULL, stdout=writer).wait(10).success
        assert not os.get_blocking(writer)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_number_that_was_reused_meanwhile_is_left_alone(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    made = Streams(DEVNULL, writer, DEVNULL)
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK)
    os.dup2(other, writer)
    made.restore()
    assert not os.get_blocking(writer)
    for fd in (reader, writer, other):
        os.close(fd)
    made.restore()
    made.close()


def test_exposes_tells_what_reaches_past_the_mounts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    controller, terminal = pty.openpty()
    pair = os.pipe()
    fds = {
        "read": os.open(path, os.O_RDONLY),
        "path": os.open(path, os.O_PATH),
        "folder": os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY),
        "write": os.open(path, os.O_WRONLY),
        "both": os.open(path, os.O_RDWR),
        "terminal": terminal,
        "pipe": pair[0],
    }
    try:
        assert {name: exposes([fd]) for name, fd in fds.items()} == {
            "read": True, "path": True, "folder": True, "write": False, "both": False, "terminal": False, "pipe": False,
        }  # fmt: skip
        assert exposes([fds["write"], fds["read"]]) and not exposes([NULL_DEVICE]) and not exposes([])
    finally:
        for fd in {*fds.values(), *pair, controller}:
            os.close(fd)


@pytest.mark.parametrize("path", ["/etc/passwd", "/dev/zero"])
def test_exposes_does_not_ask_whose_file_it_is(path: str) -> None:
    with open(path, "rb") as file:
        assert exposes([file.fileno()])


@pytest.mark.needs("mount_namespace")
def test_a_readable_file_as_stdin_moves_metadata_to_seccomp(tree: Tree) -> None:
    source = tree.work / "source"
    source.write_text("x")
    source.chmod(0o644)
    code = "import os\ntry: os.fchmod(0, 0o600)\nexcept OSError as e: print(e.errno)"
    sandbox = box(fs_writable=[str(tree.work)])
    with open(source, "rb") as stdin:
        result = sandbox.run([*PYTHON, code], stdin=stdin)
    assert result.stdout == b"1\n" and stat.S_IMODE(source.stat().st_mode) == 0o644
    rows = {row.name: row.layer for row in result.protections}
    assert rows["fs_metadata"] == "seccomp"
    assert {row.name: row.layer for row in sandbox.run(["true"]).protections}["fs_metadata"] == "namespace"


def test_a_memory_file_keeps_its_position() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"onetwo")
        file.flush()
        file.seek(3)
        assert box().run(["cat"], stdin=file).stdout == b"two"


def test_output_of_a_script_goes_to_its_own_stdout() -> None:
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\nfrom sandlock_runtime import Sandbox\n"
        f"s = Sandbox(fs_readable={SYSTEM!r})\ns.spawn(['sh', '-c', 'cat; echo err >&2'])\nsys.exit(s.wait().exit_code)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=b"through", capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"through", b"err\n")
