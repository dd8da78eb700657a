"""A program that waits in the kernel waits on after its restore, and its call ends as if nothing had happened."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from process_lab import Lab, build

from sandlock_checkpoint import Leave, capture

pytestmark = pytest.mark.needs("ptrace")

# What each call returns when what it waits for comes.
CALLS = {
    "read": 8, "read_socket": 8, "read_eventfd": 8, "recvmsg": 8, "futex": 0, "futex_timed": 0, "epoll_wait": 1,
    "epoll_wait_timed": 1, "epoll_pwait": 1, "poll": 1, "poll_timed": 1, "ppoll": 1, "select": 1, "pselect": 1,
    "sigtimedwait": 1, "sigwaitinfo": 1, "pause": 1, "sigsuspend": 1, "msgrcv": 1, "semop": 0, "flock": 0,
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_blocked_call_goes_on(lab: Lab, programs: Path, call: str) -> None:
    flag = lab.folder / "flag"
    running = lab.start([build(programs, "blocked"), call, flag])
    running.wait_for("ready")
    time.sleep(0.05)  # from its "ready" into the call
    restored = lab.cycle(running)
    time.sleep(0.1)
    assert "early" not in running.text()
    flag.touch()
    assert lab.finish(restored) == 0
    assert running.lines()[1:] == [f"ended {CALLS[call]} 0"]


@pytest.mark.parametrize("call", ["read", "epoll_wait", "poll", "sigtimedwait", "pause", "select"])
def test_a_blocked_call_does_not_notice_a_capture(lab: Lab, programs: Path, call: str) -> None:
    """The captured process runs on, and no call of it fails with an EINTR that no signal of its own explains."""
    flag = lab.folder / "flag"
    running = lab.start([build(programs, "blocked"), call, flag])
    running.wait_for("ready")
    time.sleep(0.05)
    for number in range(3):
        with capture(running.pid, leave=Leave.RUNNING) as checkpoint:
            checkpoint.save(lab.folder / f"kept{number}")
        time.sleep(0.02)
    flag.touch()
    assert running.process.wait(20) == 0
    assert running.lines()[1:] == [f"ended {CALLS[call]} 0"]


@pytest.mark.parametrize("call", ["nanosleep", "clock_nanosleep", "clock_nanosleep_absolute"])
@pytest.mark.parametrize("captures", [1, 2])
def test_a_sleep_lasts_for_what_was_left(lab: Lab, programs: Path, call: str, captures: int) -> None:
    """Two seconds in all, the time in the image not counted (an absolute end is at that time, wherever it was)."""
    running = lab.start([build(programs, "blocked"), call, "-"])
    running.wait_for("ready")
    began = time.monotonic()
    time.sleep(0.5)
    for number in range(captures - 1):
        with capture(running.pid) as checkpoint:
            checkpoint.save(lab.folder / f"kept{number}")
        time.sleep(0.2)
    with lab.take(running) as checkpoint:
        stopped = time.monotonic()
        time.sleep(1.0)
        restored = lab.restore(checkpoint)
    paused = time.monotonic() - stopped
    assert lab.finish(restored) == 0
    lasted = time.monotonic() - began - (0 if call.endswith("absolute") else paused)
    assert running.lines()[1:] == ["ended 0 0"]
    assert 1.8 <= lasted <= 3.0
