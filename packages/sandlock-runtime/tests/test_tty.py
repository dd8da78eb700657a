"""A terminal of its own: job control, size, and the caller's terminal afterwards as before."""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from typing import Any

import pytest
from runtime_lab import SYSTEM

pytestmark = pytest.mark.needs("landlock", level=1)

SCRIPT = """
import sys
sys.path[:] = {paths!r}
from sandlock_runtime import Sandbox
code = Sandbox(fs_readable={readable!r}, fs_writable=["/dev/null"], {fields}).run_interactive({command!r})
print("code", code)
"""


class Seat:
    """Somebody at a terminal, in front of a Python that runs a program interactively."""

    def __init__(self, command: list[str], fields: str = "") -> None:
        text = SCRIPT.format(paths=sys.path, readable=SYSTEM, fields=fields, command=command)
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, "-c", text])  # noqa: S606 - in the fork of a pty
        self.shown = b""

    def until(self, text: bytes) -> bytes:
        """Read until `text` is shown; return what was shown since the last call."""
        end = time.monotonic() + 30
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} is not in {self.shown!r}"
            if select.select([self.master], [], [], 0.3)[0]:
                try:
                    self.shown += os.read(self.master, 4096)
                except OSError:  # EIO: everybody has gone
                    assert text in self.shown, self.shown
        seen, _, self.shown = self.shown.partition(text)
        return seen + text

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def modes(self) -> Any:
        return termios.tcgetattr(self.master)

    def end(self) -> int:
        os.close(self.master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_shell_has_job_control_and_the_size_of_the_terminal() -> None:
    seat = Seat(["sh", "-i"])
    before = seat.modes()
    ioctl(seat.master, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 97, 0, 0))
    seat.until(b"$ " if os.geteuid() else b"# ")
    seat.type(b"stty size; echo a$((1+1))b\r")
    assert b"41 97" in seat.until(b"a2b\r\n")
    ioctl(seat.master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 60, 0, 0))
    seat.type(b"sleep 0.3; stty size; echo c$((1+2))d\r")
    assert b"30 60" in seat.until(b"c3d\r\n")
    seat.type(b"sh -c 'echo st\"\"arted; exec sleep 1000'\r")
    seat.until(b"started\r\n")
    seat.type(b"\x1a")  # ^Z stops the job, and the shell is back
    seat.until(b"topped")
    seat.type(b"kill -9 %1; echo e$((2+2))f\r")
    seat.until(b"e4f\r\n")
    seat.type(b"exit 7\rexit 7\r")  # the first may hear of the job's end
    seat.until(b"code 7")
    assert seat.modes() == before, "the caller's terminal has its modes back"
    seat.end()


def test_an_interrupt_is_the_programs_and_not_the_callers() -> None:
    seat = Seat(["sh", "-c", "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done"])
    seat.until(b"ready")
    seat.type(b"\x03")
    seat.until(b"caught")
    seat.until(b"code 3")
    seat.end()


def test_the_program_has_the_new_terminal_and_not_the_callers() -> None:
    seat = Seat(["sh", "-c", "test -t 0 && test -t 2 && echo it > /dev/tty && stty -echo raw && kill -9 $$"])
    before = seat.modes()
    seat.until(b"it\r\n")
    seat.until(b"code 137")
    assert seat.modes() == before
    seat.end()


def test_a_signal_that_ends_the_caller_restores_its_terminal_first() -> None:
    seat = Seat(["sh", "-c", "echo ready; sleep 1000"])
    before = seat.modes()
    seat.until(b"ready")
    assert seat.modes() != before, "meanwhile every key is passed on"
    os.kill(seat.pid, signal.SIGTERM)
    end = time.monotonic() + 30
    while os.waitid(os.P_PID, seat.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert seat.modes() == before
    assert seat.end() == -signal.SIGTERM


def test_the_time_limit_holds() -> None:
    seat = Seat(["sleep", "1000"], "timeout=0.3, grace=0.1")
    seat.until(b"code 143")
    seat.end()


@pytest.mark.parametrize("ended", ["time", "signal"])
def test_a_terminal_that_takes_nothing_holds_no_end_up(ended: str) -> None:
    """Somebody has pressed Ctrl-S, or the connection hangs: what limits the program, or ends the caller, works."""
    seat = Seat(["yes"], "timeout=1, grace=0.1" if ended == "time" else "")
    seat.until(b"y\r\ny")
    if ended == "signal":
        os.kill(seat.pid, signal.SIGTERM)
    end = time.monotonic() + 60
    while os.waitid(os.P_PID, seat.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        # Nothing is read but the end's own words, for which the kernel has no room before.
        assert time.monotonic() < end
        time.sleep(0.02)
        if ended == "time" and os.path.exists(f"/proc/{seat.pid}") and not _children(seat.pid):
            select.select([seat.master], [], [], 0)
            os.read(seat.master, 4096)
    assert seat.end() == (0 if ended == "time" else -signal.SIGTERM)


def _children(pid: int) -> list[str]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_without_a_terminal_input_and_output_pass_all_the_same() -> None:
    text = SCRIPT.format(paths=sys.path, readable=SYSTEM, fields="", command=["sh", "-c", "read x; echo got $x; cat"])
    done = subprocess.run(
        [sys.executable, "-c", text], input=b"word\nrest\n", capture_output=True, timeout=60, check=False
    )
    assert b"got word" in done.stdout, done.stderr
    assert b"code 0" in done.stdout
