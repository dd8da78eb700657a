"""The policy callback: told what the program is about to do, and asked whether it may.

Held until the verdict: execve, execveat, connect, sendto, sendmsg, sendmmsg, bind, open, openat, openat2. The callback
is asked before anything acts. The other calls here are told after the fact: they go on at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from errno import EPERM
from typing import TYPE_CHECKING, TypeAlias

from sandlock_notif.action import Action, Errno
from sandlock_notif.context import PolicyContext
from sandlock_notif.dispatch import HandlerTable, Services, Trap
from sandlock_notif.errors import shown
from sandlock_notif.events import Event
from sandlock_notif.runner import Runner
from sandlock_notif.syscall_event import SyscallEvent, describe
from sandlock_policy.seccomp.rules import between, lacks_bits

if TYPE_CHECKING:
    import asyncio

    from sandlock_notif.request import Request
    from sandlock_policy.seccomp.rules import Condition

__all__ = ["HELD", "TOLD", "CallbackTable", "PolicyFunction", "decide_verdict"]

PolicyFunction: TypeAlias = Callable[[SyscallEvent, PolicyContext], "object | Awaitable[object]"]

_CLONE_THREAD = 0x10000  # linux/sched.h, 2.4
_MAX_TOLD = 1000  # calls that wait to be told; a program makes them as fast as it likes (NOT-22)
_LARGE = 1 << 20  # bytes; smaller mappings are the allocator's everyday business

HELD: dict[str, str] = {
    "execve": "process",
    "execveat": "process",
    "connect": "network",
    "sendto": "network",
    "sendmsg": "network",
    "sendmmsg": "network",
    "bind": "network",
    "open": "file",
    "openat": "file",
    "openat2": "file",
}
"""Calls that wait for the verdict, and their category."""

TOLD: dict[str, tuple[str, tuple[Condition, ...]]] = {
    "fork": ("process", ()),
    "vfork": ("process", ()),
    "clone": ("process", (lacks_bits(0, _CLONE_THREAD, wide=True),)),
    "mmap": ("memory", (between(1, _LARGE, (1 << 64) - 1, wide=True),)),
    "mremap": ("memory", (between(2, _LARGE, (1 << 64) - 1, wide=True),)),
    "unlink": ("file", ()),
    "unlinkat": ("file", ()),
    "rename": ("file", ()),
    "renameat": ("file", ()),
    "renameat2": ("file", ()),
    "truncate": ("file", ()),
}
"""Calls that are told after the fact: category, and what the filter tests."""


class CallbackTable(HandlerTable):
    """Asks one function.

    Arguments:
        function: `(event, context) -> verdict`, plain or async.
        timeout_s: seconds until silence counts as a refusal.

    """

    name = "policy callback"
    while_parked = False

    def __init__(self, function: PolicyFunction, timeout_s: float) -> None:
        self._function = function
        self._timeout_s = timeout_s
        self._runner = Runner()
        self._services: Services | None = None
        self._told: set[asyncio.Task[None]] = set()
        self._lost = False
        self.context = PolicyContext()

    def traps(self) -> Sequence[Trap]:
        """Return the held calls and the told ones."""
        held = [Trap(call, self._ask, "the policy callback decides", (), "task") for call in HELD]
        reason = "the policy callback is told"
        told = [Trap(call, self._tell, reason, tests, "answer") for call, (_, tests) in TOLD.items()]
        return (*held, *told)

    def attach(self, services: Services) -> None:
        """Remember who reports."""
        self._services = services

    async def close(self) -> None:
        """Let the threads end; what was not told yet is not."""
        for task in self._told:
            task.cancel()
        self._runner.close()

    async def _ask(self, request: Request) -> Action | None:
        services = self._services
        assert services is not None  # noqa: S101  # attached before the child runs
        name = services.arch.name_of(request.nr)
        event = describe(request, name, HELD[name], services)
        try:
            answer = await self._runner.run(self._function, event, self.context, timeout_s=self._timeout_s)
            verdict, audited = decide_verdict(answer)
        except Exception as error:  # noqa: BLE001  # whatever a caller's function raises, the call is denied
            text = f"the policy callback failed: {type(error).__name__}: {error}"
            services.report(Event("fault", name, request.tid, EPERM, text))
            return Errno(EPERM)
        if audited:
            services.report(Event("audit", name, request.tid, 0, "allowed by the policy callback", event.detail()))
        if verdict:
            return Errno(verdict, "the policy callback refused it")
        return None

    def _tell(self, request: Request) -> Action | None:
        services = self._services
        assert services is not None  # noqa: S101  # as above
        name = services.arch.name_of(request.nr)
        event = describe(request, name, TOLD[name][0], services)
        full = len(self._told) >= _MAX_TOLD
        if not full:
            task = services.loop.create_task(self._run_told(event))
            self._told.add(task)
            task.add_done_callback(self._told.discard)
        elif not self._lost:
            text = f"more than {_MAX_TOLD} calls wait to be told: the callback is too slow, and hears no more for now"
            services.report(Event("fault", name, request.tid, 0, text))
        self._lost = full
        return None

    async def _run_told(self, event: SyscallEvent) -> None:
        try:
            await self._runner.run(self._function, event, self.context, timeout_s=self._timeout_s)
        except Exception as error:  # noqa: BLE001  # nothing hangs on this answer
            if self._services is not None:
                text = f"the policy callback failed: {type(error).__name__}: {error}"
                self._services.report(Event("fault", event.syscall, event.pid, 0, text))


def decide_verdict(answer: object) -> tuple[int, bool]:
    """Return (errno or 0, whether it is to be recorded) for what a callback returned.

    None, False and 0 allow; True and -1 are EPERM; 1..4095 is that errno; "audit" and -2 allow and record.

    Raises:
        ValueError: anything else.

    """
    if answer is None or answer is False or (type(answer) is int and answer == 0):
        return 0, False
    if answer is True or (type(answer) is int and answer == -1):
        return EPERM, False
    if type(answer) in (str, int) and answer in ("audit", -2):
        return 0, True
    if type(answer) is int and 1 <= answer <= 4095:
        return answer, False
    raise ValueError(f"{shown(answer)} is no verdict")
