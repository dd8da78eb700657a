"""Signals to the command, and the clock: what reaches the program, and how the command ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("landlock", level=2)

Running = subprocess.Popen[str]
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


@contextlib.contextmanager
def started(script: str, folder: Path, *options: str, before: str = "") -> Iterator[Running]:
    """Start the command; `script` writes `ready` to stderr when it is, and nothing before."""
    command = [sys.executable, "-m", "sandlock_cli", "run", *options, "--", "sh", "-c", script]
    if before:
        command = ["sh", "-c", f'{before}; exec "$@"', "sh", *command]
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if "--json" in options:
            time.sleep(1)  # what it says is captured, so there is no telling when it is ready
        else:
            assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_reaches_the_program_which_decides(tmp_path: Path, number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    with started(script, tmp_path) as process:
        process.send_signal(number)
        assert process.communicate(timeout=10)[0] == "caught\n"
        assert process.returncode == 9


@pytest.mark.parametrize("number", NUMBERS)
def test_a_program_that_dies_of_it_gives_its_status(tmp_path: Path, number: signal.Signals) -> None:
    with started("echo ready; exec sleep 20", tmp_path) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (128 + number, "", "")


def test_an_interrupt_reaches_the_children_of_the_program_too(tmp_path: Path) -> None:
    # A shell waits for its child before it dies of the interrupt itself, so it must reach both.
    with started("echo ready; sleep 20; echo survived", tmp_path) as process:
        time.sleep(0.2)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10)[0] == ""
        assert time.monotonic() - start < 5


def test_what_the_caller_ignores_does_not_reach_the_program(tmp_path: Path) -> None:
    script = "trap 'echo caught; exit 9' HUP TERM; echo ready; while :; do sleep 0.05; done"
    with started(script, tmp_path, before="trap '' HUP") as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10)[0] == "caught\n"


def test_signals_are_passed_on_while_output_is_captured(tmp_path: Path) -> None:
    script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with started(script, tmp_path, "--json") as process:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
        assert '"stdout": "ready\\ncaught\\n"' in out
        assert process.returncode == 9


def test_many_signals_at_once_do_not_stop_the_command(tmp_path: Path) -> None:
    script = "trap : INT TERM HUP; echo ready; for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done; exit 6"
    with started(script, tmp_path) as process:
        for _ in range(300):
            for number in (signal.SIGTERM, signal.SIGHUP):
                process.send_signal(number)
        process.communicate(timeout=20)
        assert process.returncode == 6


def test_a_timeout_reaches_daemons_and_is_over_soon(tmp_path: Path) -> None:
    start = time.monotonic()
    read, write = os.pipe()
    script = "setsid sleep 30 & trap '' TERM; while :; do sleep 0.05; done"
    done = subprocess.run(
        [sys.executable, "-m", "sandlock_cli", "run", "-t", "0.3", "--grace", "0.3", "--", "sh", "-c", script],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=20,
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "", "the end of the pipe: nobody of the sandbox holds it any more"
    assert done.returncode == 124
    assert time.monotonic() - start < 10
