"""The caller's terminal: no injected input, no taken foreground, no changed line discipline (PR-01 02 04)."""

from __future__ import annotations

import errno
import json
import os
import pty
import select
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from attack_lab import Box, call, read_lines

if TYPE_CHECKING:
    from collections.abc import Callable

TIOCSTI, TIOCLINUX, TIOCSCTTY, TIOCSPGRP, TIOCNOTTY, TIOCCONS = 0x5412, 0x541C, 0x540E, 0x5410, 0x5422, 0x541D
TIOCSETD, TIOCVHANGUP, TIOCEXCL, KDSKBENT, VT_ACTIVATE = 0x5423, 0x5437, 0x540C, 0x4B47, 0x5606

SCRIPT = """
import fcntl, json, os, subprocess, sys, termios
sys.path[:0] = json.loads(os.environ["TEST_PATHS"])
job = json.loads(os.environ["JOB"])
before = os.tcgetpgrp(0)
if job["fields"] is None:
    output = subprocess.run(job["command"], stdout=subprocess.PIPE).stdout
else:
    from sandlock import Sandbox
    with Sandbox(**job["fields"]) as sandbox:
        with sandbox.popen(job["command"], stdin=0, stdout=subprocess.PIPE) as process:
            output, _ = process.communicate(timeout=20)
import select
typed = b""
attributes = termios.tcgetattr(0)
attributes[3] &= ~(termios.ICANON | termios.ECHO)
termios.tcsetattr(0, termios.TCSANOW, attributes)
while select.select([0], [], [], 0.1)[0]:
    typed += os.read(0, 100)
with open(job["report"], "w") as file:
    json.dump({"output": output.decode(), "typed": typed.decode(), "group": [before, os.tcgetpgrp(0), os.getpgrp()],
               "own_tty": os.path.exists("/dev/tty") and os.access("/dev/tty", os.R_OK)}, file)
"""


@pytest.fixture
def at_terminal(box: Box, tmp_path: object) -> Callable[..., dict[str, object]]:
    """Run `invoke` with these words at a terminal of its own, bare or inside; what a script at that terminal saw."""

    def run(words: list[str], *, inside: bool) -> dict[str, object]:
        report = f"{tmp_path}/report-{inside}"
        job = {"command": [box.program("invoke"), *words], "fields": box.fields() if inside else None, "report": report}
        pid, master = pty.fork()
        if pid == 0:
            environment = {
                **os.environ,
                "JOB": json.dumps(job),
                "TEST_PATHS": json.dumps([os.path.dirname(__file__), *sys.path]),
            }
            os.execve(sys.executable, [sys.executable, "-c", SCRIPT], environment)  # noqa: S606 - in the fork of a pty
        shown = b""
        end = time.monotonic() + 30
        try:
            while time.monotonic() < end:
                if select.select([master], [], [], 0.1)[0]:
                    try:
                        shown += os.read(master, 4096)
                    except OSError as error:
                        if error.errno == errno.EIO:  # the terminal's last process has gone
                            break
                        raise
        finally:
            os.close(master)
            os.waitpid(pid, 0)
        assert os.path.exists(report), shown.decode(errors="replace")
        with open(report) as file:
            return dict(json.load(file))

    return run


def typing(text: str, request: int = TIOCSTI) -> list[str]:
    return [word for index, letter in enumerate(text) for word in call(f"type{index}", "ioctl", 0, request, letter)]


@pytest.mark.skipif(not os.path.exists("/proc/sys/dev/tty/legacy_tiocsti"), reason="no such switch before 6.2")
@pytest.mark.parametrize("high", [0, 1 << 32, 0xFFFFFFFF << 32])
def test_pr_01_nothing_is_typed_into_the_terminal(at_terminal: Callable[..., dict[str, object]], high: int) -> None:
    words = typing("id\n", TIOCSTI | high)
    bare = at_terminal(words, inside=False)
    with open("/proc/sys/dev/tty/legacy_tiocsti") as file:
        if file.read().strip() == "1":
            assert bare["typed"] == "id\n", "bare, the shell after us would have read this"
    inside = at_terminal(words, inside=True)
    assert inside["typed"] == ""
    lines = read_lines(str(inside["output"]).encode())
    assert {line.errno for line in lines.values()} == {errno.EPERM}


def test_pr_02_console_requests_are_refused(at_terminal: Callable[..., dict[str, object]]) -> None:
    requests = {
        "linux": TIOCLINUX,
        "cons": TIOCCONS,
        "setd": TIOCSETD,
        "vhangup": TIOCVHANGUP,
        "kbent": KDSKBENT,
        "vt": VT_ACTIVATE,
    }
    words = [word for name, nr in requests.items() for word in call(name, "ioctl", 0, nr, struct.pack("=i", 1))]
    words += call("linux_high", "ioctl", 0, TIOCLINUX | 1 << 32, "\x03")
    inside = read_lines(str(at_terminal(words, inside=True)["output"]).encode())
    assert inside["linux"].errno == inside["linux_high"].errno == errno.EPERM
    assert not any(line.won for line in inside.values()), inside


def test_pr_04_the_foreground_and_the_terminal_stay_the_callers(at_terminal: Callable[..., dict[str, object]]) -> None:
    words = [
        *call("steal", "ioctl", 0, TIOCSCTTY, 1),
        *call("plain", "ioctl", 0, TIOCSCTTY, 0),
        *call("me", "getpid"),
        *call("group", "ioctl", 0, TIOCSPGRP, struct.pack("=i", 1)),
        *call("tty", "openat", -100, "/dev/tty", 2),
    ]
    inside = at_terminal(words, inside=True)
    lines = read_lines(str(inside["output"]).encode())
    assert not any(lines[name].won for name in ("steal", "plain", "group", "tty")), lines
    groups = inside["group"]
    assert isinstance(groups, list)
    assert len(set(groups)) == 1, "before, after, and the script's own"
    bare = at_terminal(call("tty", "openat", -100, "/dev/tty", 2), inside=False)
    assert read_lines(str(bare["output"]).encode())["tty"].won, "bare, the terminal is at hand"


def test_pr_04_the_callers_terminal_is_not_made_exclusive(box: Box) -> None:
    """TIOCEXCL makes every later open of the terminal fail with EBUSY, after the sandbox has gone too."""
    master, slave = pty.openpty()
    try:
        with (
            box.sandbox() as sandbox,
            sandbox.popen(
                [box.program("invoke"), *call("exclusive", "ioctl", 0, TIOCEXCL)], stdin=slave, stdout=subprocess.PIPE
            ) as process,
        ):
            output, _ = process.communicate(timeout=20)
        assert read_lines(output)["exclusive"].errno == errno.EPERM
        os.close(os.open(os.ttyname(slave), os.O_RDWR | os.O_NOCTTY))
    finally:
        os.close(master)
        os.close(slave)


def test_pr_04_a_stream_of_the_caller_is_not_left_nonblocking(box: Box) -> None:
    """The flags of an open file are shared with the caller: left there, its next read fails with EAGAIN."""
    set_flags, nonblocking = 4, os.O_NONBLOCK  # F_SETFL, asm-generic/fcntl.h
    read_end, write_end = os.pipe()
    try:
        with box.sandbox() as sandbox:
            process = sandbox.popen(
                [box.program("invoke"), *call("set", "fcntl", 0, set_flags, nonblocking)],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
            )
            process.wait(timeout=20)
        assert os.get_blocking(read_end)
    finally:
        os.close(read_end)
        os.close(write_end)
