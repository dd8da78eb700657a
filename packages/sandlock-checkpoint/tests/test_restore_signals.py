"""Signals, timers and limits are as they were: handlers, masks, stacks, what waits, and what is still to come."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from process_lab import Lab, build, wait_until

from sandlock_checkpoint import Scope
from sandlock_checkpoint.capture import drive, process
from sandlock_sys.proc import read_status

if TYPE_CHECKING:
    from sandlock_checkpoint.capture.process import Subject
    from sandlock_checkpoint.model import ProcessInfo

pytestmark = pytest.mark.needs("ptrace")


def test_signals_timers_and_limits_are_kept(lab: Lab, programs: Path) -> None:
    flag = lab.folder / "flag"
    running = lab.start([build(programs, "signals"), flag])
    running.wait_for("ready")
    restored = lab.cycle(running)
    flag.touch()
    assert lab.finish(restored) == 0
    assert running.lines() == [
        "ready",
        "alarms 1 on_stack 1 timers 1 value 4711",
        "pending 1 1 11 22",
        "ignored 1 umask 27 files 64",
        "timer 1",
    ]


ALARMS = """
import signal, sys, time
alarms = 0
def handle(*_):
    global alarms
    alarms += 1
    print("alarm", alarms, flush=True)
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 2, float(sys.argv[1]))
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("interval", [0.05, 0], ids=["every", "once"])
def test_a_timer_that_expires_while_all_stand_still_is_not_lost(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, interval: float
) -> None:
    """The kernel arms it anew only when its signal is taken, which waits."""
    real = process.describe_process

    def late(subject: Subject, *arguments: Any) -> ProcessInfo:
        def waits() -> bool:
            return bool(read_status(subject.pid).signals_process_pending >> signal.SIGALRM - 1 & 1)

        wait_until(waits, "the expiry")
        return real(subject, *arguments)

    running = lab.python(ALARMS, str(interval))
    running.wait_for("ready")
    monkeypatch.setattr(drive, "describe_process", late)
    with lab.take(running) as checkpoint:
        assert "alarm" not in running.text()
        restored = lab.restore(checkpoint)
    wait_until(lambda: ("alarm 3" if interval else "alarm 1") in running.text(), "alarms")
    restored.kill()
    lab.finish(restored)


def test_what_the_restorer_ignores_is_not_ignored_by_the_restored(lab: Lab) -> None:
    """Python ignores SIGPIPE, and a child inherits that; the captured process did not."""
    running = lab.start(["sh", "-c", "trap : HUP; echo ready; while :; do sleep 0.01; done; :"])
    running.wait_for("ready")
    before = Path(f"/proc/{running.pid}/status").read_text()
    with lab.take(running, scope=Scope.TREE) as checkpoint:
        restored = lab.restore(checkpoint)
    after = Path(f"/proc/{restored.pid}/status").read_text()
    restored.kill()
    lab.finish(restored)
    for name in ("SigIgn", "SigCgt"):
        (was,) = (line for line in before.splitlines() if line.startswith(name))
        assert was in after.splitlines()
