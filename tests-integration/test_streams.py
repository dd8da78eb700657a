"""Streams at any size: nothing deadlocks, nothing is lost, what is bounded is bounded."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from attack_lab import Box, reason_of

if TYPE_CHECKING:
    from sandlock_testkit.tree import Tree

SYSTEM = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"]
MIB = 1 << 20
pytestmark = pytest.mark.usefixtures("leaks")


def test_64_mib_on_both_streams(box: Box) -> None:
    result = box.inside("flood", str(64 * MIB), timeout=60)
    assert result.success, (result.exit_code, reason_of(result))
    assert len(result.stdout) == len(result.stderr) == 64 * MIB
    assert result.stdout.count(b"o") == result.stderr.count(b"e") == 64 * MIB


def test_past_max_output_the_rest_is_dropped_and_the_program_ends(box: Box) -> None:
    with box.sandbox() as sandbox:
        result = sandbox.run([box.program("flood"), str(32 * MIB)], timeout=60, max_output=MIB)
    assert result.success
    assert len(result.stdout) <= MIB
    assert len(result.stderr) <= MIB
    assert len(result.stdout) + len(result.stderr) >= MIB


def test_16_mib_of_stdin_arrive_while_as_much_comes_back(box: Box) -> None:
    data = os.urandom(MIB) * 16
    result = box.inside("/bin/cat", fs_readable=SYSTEM, input=data, timeout=60)
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


def test_stdin_that_nobody_reads_is_no_hang(box: Box) -> None:
    started = time.monotonic()
    assert box.inside("/bin/true", fs_readable=SYSTEM, input=b"x" * (16 * MIB)).success
    result = box.inside("/bin/sleep", "9", fs_readable=SYSTEM, input=b"x" * (16 * MIB), timeout=0.5)
    assert reason_of(result) == "TIMEOUT"
    assert time.monotonic() - started < 6


def test_closed_streams_of_the_program_are_no_hang(box: Box) -> None:
    result = box.inside("/bin/sh", "-c", "exec <&- >&- 2>&-; sleep 0.2; exit 3", fs_readable=SYSTEM, input=b"x" * MIB)
    assert result.exit_code == 3


def test_nothing_on_stdin_is_the_end_of_file_and_not_the_callers_stdin(box: Box) -> None:
    result = box.inside("/bin/cat", fs_readable=SYSTEM, timeout=10)
    assert (result.stdout, reason_of(result)) == (b"", "EXITED")


def test_output_before_the_timeout_is_kept(box: Box) -> None:
    result = box.inside("/bin/sh", "-c", "echo one; echo two >&2; sleep 9", fs_readable=SYSTEM, timeout=0.5)
    assert (result.stdout, result.stderr, reason_of(result)) == (b"one\n", b"two\n", "TIMEOUT")


def test_bytes_of_every_value_come_back_unchanged(box: Box) -> None:
    data = bytes(range(256)) * 100
    assert box.inside("/bin/cat", fs_readable=SYSTEM, input=data).stdout == data


def test_a_reader_that_ends_gives_the_program_sigpipe(box: Box) -> None:
    """Python ignores SIGPIPE; inside, the default is back."""
    with box.sandbox() as sandbox:
        read_end, write_end = os.pipe()
        os.close(read_end)
        process = sandbox.popen([box.program("flood"), str(MIB)], stdout=write_end, stderr=subprocess.DEVNULL)
        os.close(write_end)
        result = process.wait(timeout=10)
    assert result.signal == 13


def test_streams_may_be_files_of_the_caller(box: Box, tree: Tree) -> None:
    target = tree.root / "log"
    with open(target, "wb") as file, box.sandbox(fs_readable=SYSTEM) as sandbox:
        process = sandbox.popen(
            ["/bin/sh", "-c", "cat; echo done"], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        assert process.wait(timeout=10).exit_code == 0
    assert target.read_bytes() == b"done\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_host_without_standard_streams_launches_too(box: Box, closed: tuple[int, ...], tree: Tree) -> None:
    """A daemon closes 0, 1 and 2: then the pipes of a launch get these very numbers."""
    script = (
        "import json, os, sys\n"
        "sys.path[:0] = json.loads(os.environ['TEST_PATHS'])\n"
        "from sandlock import Sandbox\n"
        "fields, closed, report = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]\n"
        "for fd in closed: os.close(fd)\n"
        "r = Sandbox(**fields).run(['/bin/sh', '-c', 'cat; echo out; echo err >&2'], input=b'in ', timeout=10)\n"
        "fd = os.open(report, os.O_CREAT | os.O_WRONLY)\n"
        "os.write(fd, r.stdout + r.stderr)\n"
        "os._exit(0)\n"
    )
    report = tree.root / "report"
    subprocess.run(
        [sys.executable, "-c", script, json.dumps(box.fields(fs_readable=SYSTEM)), json.dumps(closed), str(report)],
        env={**os.environ, "TEST_PATHS": json.dumps(sys.path)}, check=True, timeout=30, capture_output=True,
    )  # fmt: skip
    assert report.read_bytes() == b"in out\nerr\n"
