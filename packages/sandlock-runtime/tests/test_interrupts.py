"""An interrupt at any moment of a run: no process is left, and the object can be used again."""

from __future__ import annotations

import os
import random
import signal
import time

from runtime_lab import box

from sandlock_runtime import Sandbox
from sandlock_testkit.leaks import Holdings

_FEW = 6  # fds that interrupts right behind the calls that opened them may cost, in all rounds together
_SETTLE_S = 20.0


def test_a_keyboard_interrupt_at_any_moment_leaves_no_process() -> None:
    """Python may raise it behind any call, also between a launch and the name that would have kept it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    box().run(["true"])
    sandbox: Sandbox = box(grace=0)
    base, fds = Holdings.now(), len(os.listdir("/proc/self/fd"))
    interrupted = 0
    chance = random.Random(4)  # noqa: S311 - moments, not secrets
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(60):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.001 + chance.random() * 0.02)
                sandbox.run(["sleep", "60"], timeout=5)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted >= 59, "one that comes in a finalizer is lost: so says Python"
    assert not sandbox.is_running
    assert sandbox.run(["true"]).success
    end = time.monotonic() + _SETTLE_S
    while (left := (Holdings.now().children - base.children) | (Holdings.now().threads - base.threads)) and (
        time.monotonic() < end
    ):
        time.sleep(0.01)
    assert not left
    assert len(os.listdir("/proc/self/fd")) <= fds + _FEW
