"""`sandlock run -i`: a terminal of its own."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.needs("landlock", level=1)

RUN = [sys.executable, "-m", "sandlock_cli", "run"]


def test_a_program_at_a_terminal_of_its_own() -> None:
    pid, master = pty.fork()
    if pid == 0:
        os.execv(RUN[0], [*RUN, "-i", "--", "sh", "-c", "test -t 0 && read x && echo got $x > /dev/tty; exit 9"])  # noqa: S606 - in the fork of a pty
    os.write(master, b"word\r")
    shown, end = b"", time.monotonic() + 30
    while b"got word" not in shown:
        assert time.monotonic() < end, shown
        if select.select([master], [], [], 0.2)[0]:
            try:
                shown += os.read(master, 4096)
            except OSError:
                break
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(master)
    assert b"got word" in shown
    assert status == 9


def test_captured_and_shown_is_a_contradiction() -> None:
    done = subprocess.run([*RUN, "-i", "--json", "true"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "choose one" in done.stdout + done.stderr
