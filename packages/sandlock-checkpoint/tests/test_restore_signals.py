"""Signals, timers and limits are as they were: handlers, masks, stacks, what waits, and what is still to come."""

from __future__ import annotations

from pathlib import Path

import pytest
from process_lab import Lab, build

from sandlock_checkpoint import Scope

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
