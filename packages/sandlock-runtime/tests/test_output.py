"""What a program writes and reads: any size, any end."""

from __future__ import annotations

import time

import pytest
from runtime_lab import PYTHON, box, is_alive, line_of

from sandlock_runtime import PIPE

pytestmark = pytest.mark.usefixtures("leaks")

MIB = 1 << 20
BOTH = """
import os, threading
def fill(fd):
    for _ in range(1024):
        os.write(fd, bytes(1 << 16))
other = threading.Thread(target=fill, args=(2,))
other.start()
fill(1)
other.join()
"""


def test_64_mib_on_both_streams_come_back_whole() -> None:
    result = box().run([*PYTHON, BOTH], timeout=60)
    assert result.success
    assert (len(result.stdout), len(result.stderr)) == (64 * MIB, 64 * MIB)
    assert (result.stdout_dropped, result.stderr_dropped) == (0, 0)


def test_past_max_output_bytes_are_counted_and_dropped() -> None:
    code = "printf 0123456789; printf abc >&2"
    result = box().run(["sh", "-c", code], max_output=4)
    assert (result.stdout, result.stdout_dropped, result.stderr, result.stderr_dropped) == (b"0123", 6, b"abc", 0)
    result = box().run(["sh", "-c", code], max_output=0)
    assert (result.stdout, result.stdout_dropped, result.stderr, result.stderr_dropped) == (b"", 10, b"", 3)
    result = box().run(["sh", "-c", code], max_output=10)
    assert (result.stdout, result.stdout_dropped) == (b"0123456789", 0)


def test_max_output_bounds_a_flood_and_does_not_stop_it() -> None:
    result = box().run([*PYTHON, BOTH], max_output=1000, timeout=60)
    assert result.success and len(result.stdout) == len(result.stderr) == 1000
    assert result.stdout_dropped == result.stderr_dropped == 64 * MIB - 1000


def test_input_larger_than_a_pipe_arrives_while_output_comes_back() -> None:
    data = bytes(range(256)) * (16 * MIB // 256)
    result = box().run(["cat"], input=data, timeout=60)
    assert result.success and result.stdout == data


def test_no_input_is_the_end_of_the_input() -> None:
    assert box().run(["cat"], input=b"", timeout=20).stdout == b""
    assert box().run(["cat"], timeout=20).success


@pytest.mark.parametrize("code", ["exec <&-; sleep 0.2; echo fine", "head -c 5 >&2; exec <&-; echo fine", "echo fine"])
def test_a_program_that_does_not_read_its_input_is_no_error(code: str) -> None:
    result = box().run(["sh", "-c", code], input=bytes(4 * MIB), timeout=20)
    assert (result.reason, result.exit_code, result.stdout) == ("EXITED", 0, b"fine\n")


def test_a_program_that_closes_its_output_early_is_waited_for() -> None:
    started = time.monotonic()
    result = box().run(["sh", "-c", "echo first; exec >&- 2>&-; sleep 0.4; exit 6"], timeout=20)
    assert (result.stdout, result.exit_code) == (b"first\n", 6)
    assert time.monotonic() - started >= 0.4


def test_a_daemon_that_holds_the_pipe_does_not_hold_the_caller() -> None:
    result = box().run(
        ["sh", "-c", "setsid sh -c 'while :; do echo x; sleep 0.01; done' & sleep 0.2; echo end"], timeout=30
    )
    assert result.reason == "EXITED" and b"end\n" in result.stdout and b"x\n" in result.stdout
    assert result.usage.wall_s < 10


def test_output_before_a_timeout_is_kept() -> None:
    result = box(grace=0).run(["sh", "-c", "echo before; echo err >&2; sleep 60"], timeout=0.3)
    assert (result.reason, result.stdout, result.stderr) == ("TIMEOUT", b"before\n", b"err\n")


def test_output_before_a_crash_is_kept() -> None:
    assert box().run(["sh", "-c", "echo before; kill -SEGV $$"]).stdout == b"before\n"


def test_a_reader_that_goes_away_is_a_broken_pipe_inside() -> None:
    with box().popen(["sh", "-c", "while echo x; do :; done"], stdout=PIPE) as process:
        assert line_of(process.stdout) == "x"
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(20).signal == 13
    assert not is_alive(process.pid)
