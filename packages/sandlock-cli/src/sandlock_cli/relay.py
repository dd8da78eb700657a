"""Between the caller and a running sandbox: signals are passed on, and time runs out. LEAN.

A signal is only noted by its handler, in a pipe, and acted on here: a handler that interrupts the very code that holds
the sandbox's lock could wait for ever.
"""

from __future__ import annotations

import os
import time
from _signal import (  # type: ignore[import-not-found]  # `signal` imports enum, which takes 4 ms
    SIG_IGN,
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGTERM,
    getsignal,
    set_wakeup_fd,
    signal,
)
from select import POLLIN, poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_policy import Plan
    from sandlock_runtime.life import Life

__all__ = ["Relay", "give_up", "keep_branch", "throttle_as"]

# What a terminal sends it sends to everyone in the foreground, and the program's session is its own: so do we.
_TO_EVERYONE = (SIGINT, SIGQUIT, SIGHUP)
_FORWARDED = (*_TO_EVERYONE, SIGTERM)
_LOOK_MS = 50.0  # how often the wait of `Life.exchange`, which a signal does not end, looks at what was noted
_UNKILLABLE_S = 60.0
_KILLED_WITHIN_S = 5.0  # a process that is stuck in the kernel outlives even its SIGKILL


class Relay:
    """Notes signals from its making on, so that none is lost while the sandbox starts.

    Arguments:
        timeout_s: seconds from `run` until everyone in the sandbox gets SIGTERM, or None.
        grace_s: seconds from there until SIGKILL.

    """

    def __init__(self, timeout_s: float | None, grace_s: float) -> None:
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._deadline: float | None = None
        self._stage = 0
        self._life: Life | None = None
        self._noted, note = os.pipe()
        self._note = note
        os.set_blocking(self._noted, False)
        os.set_blocking(note, False)
        self._old_wakeup = set_wakeup_fd(note, warn_on_full_buffer=False)
        # Who starts us with a signal ignored, as nohup does, means the program too.
        self._old = [(number, signal(number, _note)) for number in _FORWARDED if getsignal(number) != SIG_IGN]

    def run(self, life: Life, captured: int | None) -> None:
        """Wait until nothing of `life` is left; `captured`: bytes to keep of its output, where that is a pipe."""
        self._life = life
        if self._timeout_s is not None:
            self._deadline = time.monotonic() + self._timeout_s
        if captured is not None:
            life.attach(b"", captured)
            life.exchange(self)
            return
        watch = poll()
        watch.register(life.fileno(), POLLIN)
        watch.register(self._noted, POLLIN)
        ended = life.fileno()
        while True:
            ready = watch.poll(self._time_left_ms())
            self.act()
            for fd, _ in ready:
                if fd == ended:
                    return

    def left_ms(self) -> float:
        """Milliseconds until `Life.exchange` has to ask again."""
        left = self._time_left_ms()
        return _LOOK_MS if left is None else min(left, _LOOK_MS)

    def act(self) -> bool:
        """Pass on the signals that were noted, and take the next step of a timeout when it is due; never the end."""
        for number in self._take():
            self._forward(number)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._expire()
        return False

    def close(self) -> None:
        """Put the handlers back and free the pipe."""
        for number, handler in self._old:
            signal(number, handler)
        set_wakeup_fd(self._old_wakeup)
        os.close(self._noted)
        os.close(self._note)

    def _time_left_ms(self) -> float | None:
        return None if self._deadline is None else max((self._deadline - time.monotonic()) * 1000 + 1, 0)

    def _take(self) -> bytes:
        try:
            return os.read(self._noted, 512)
        except BlockingIOError:
            return b""

    def _forward(self, number: int) -> None:
        life = self._life
        if life is not None and number in _FORWARDED and not life.ended:
            life.signal(number, everyone=number in _TO_EVERYONE)

    def _expire(self) -> None:
        life = self._life
        if life is None or self._deadline is None:
            return
        self._stage += 1
        if self._stage == 1 and self._grace_s > 0:
            life.expire()
            self._deadline += self._grace_s
        elif self._stage <= 2:
            self._stage = 2
            life.kill("TIMEOUT")
            self._deadline += _UNKILLABLE_S
        else:
            from sandlock_runtime.errors import SandboxError  # lazy: needs a process stuck in the kernel

            raise SandboxError(f"a process of the sandbox is still there {_UNKILLABLE_S:.0f} s after SIGKILL: "
                               "it waits in the kernel, for a dead file server perhaps")  # fmt: skip


def _note(_number: int, _frame: object) -> None:
    """Keep the default action of the signal from happening; that it came is in the pipe."""


def throttle_as(plan: Plan, life: Life) -> None:
    """Keep what runs below the plan's share of a processor, if there is one."""
    if plan.max_cpu is not None:
        from sandlock_runtime.throttle import throttle  # lazy: costs a thread, paid by who asks for it

        throttle(life, plan.max_cpu)


def keep_branch(life: Life) -> None:
    """Leave a branch that waits for a decision to the verbs that make one: nobody does in this process."""
    if life.branch is not None and life.branch.pending:
        life.branch.keep()


def give_up(life: Life) -> None:
    """Kill what runs, because the verb fails, and free it."""
    life.kill()
    if life.wait(_KILLED_WITHIN_S):
        life.finish()
