"""max_processes: at most so many living processes, counted exactly where it matters.

A fork that is let through is *promised*: it may become a process. Known processes are watched by their pidfds. As long
as known and promised ones stay below the limit, a fork costs one answer and nothing is looked up. When they reach it,
the truth is looked up: every promise settles (its thread has left the call, so the child exists, or never will), and
the tree below the guard is walked. Only then is a fork refused.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from errno import EAGAIN
from typing import TYPE_CHECKING

from sandlock_notif.action import Action, Errno
from sandlock_notif.dispatch import HandlerTable, Outcome, Services, Trap
from sandlock_notif.errors import VanishedError
from sandlock_notif.task_facts import current_call, same_memory
from sandlock_notif.tracing import Tracer, pass_through
from sandlock_notif.tree import between, census
from sandlock_policy.seccomp.rules import lacks_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandlock_notif.processes import Process
    from sandlock_notif.request import Request

__all__ = ["ZOMBIES", "Count", "ProcessLimit", "Thread", "decide_fork", "decide_settled"]

ZOMBIES = 1024
"""Processes that ended and wait for their parent, beside the living ones. They hold a process id and little else."""

_CLONE_VM = 0x100  # linux/sched.h
_CLONE_VFORK = 0x4000  # linux/sched.h
_CLONE_THREAD = 0x10000  # linux/sched.h
_POLL_S = 0.001
_PATIENCE_S = 0.01  # then a thread that never sleeps is stopped once, to see that it has left its fork
_SETTLE_S = 2.0  # the fork of a huge process takes its time; what has not settled then stays counted
_WALKS = 12


class Thread:
    """What a thread that was let through does, as /proc tells it."""

    GONE = "gone"
    ELSEWHERE = "elsewhere"  # blocked, and not in a fork
    FORKING = "forking"  # blocked in a fork: in the middle of it, or suspended by vfork
    RUNNING = "running"  # which may be in a fork
    HIDDEN = "hidden"  # it may not be looked at


@dataclass(frozen=True, slots=True)
class Count:
    """How many there are: `known` are certain, `promised` may come to life, `dead` wait for their parent."""

    known: int
    promised: int
    dead: int


def decide_fork(count: Count, limit: int, zombies: int) -> str:
    """Return why one more process may not be made, or "" when it may."""
    if count.dead >= zombies:
        return f"{count.dead} processes ended that nobody waited for"
    if count.known + count.promised >= limit:
        return f"max_processes: {limit} processes live"
    return ""


def decide_settled(doing: str, *, patient: bool) -> bool | None:
    """Tell whether a thread's fork is over; None when it has to be stopped to find out."""
    if doing in (Thread.GONE, Thread.ELSEWHERE):
        return True
    if doing == Thread.RUNNING and not patient:
        return None
    return False


class ProcessLimit(HandlerTable):
    """Refuses a fork with EAGAIN when `limit` processes live, the first included.

    Arguments:
        limit: of living processes, at least 1.
        zombies: of processes that nobody has waited for, beside them.
        tracer: stops threads that never sleep; one of its own when None.

    Attributes:
        limit: may be lowered or raised while the sandbox runs; it holds for forks from then on.

    """

    name = "processes"

    def __init__(self, limit: int, *, zombies: int = ZOMBIES, tracer: Tracer | None = None) -> None:
        self.limit = limit
        self._zombies = zombies
        self._tracer = tracer if tracer is not None else Tracer()
        self._lock = asyncio.Lock()
        self._known: set[Process] = set()
        self._dead: set[int] = set()
        self._seen: set[int] = set()  # process ids at the last census, the dead ones included
        # Threads that were let through and not heard of since, and whether they are suspended by vfork then.
        self._in_flight: dict[int, bool] = {}
        self._suspended: set[int] = set()  # those of vfork whose children were counted, and that may still be in it
        self._promised = 0  # forks let through whose children are not known
        self._censuses = 0
        self._granted = False  # since the last census
        self._vfork_only = True  # whoever shares its memory with another process came out of a vfork
        self._forks: frozenset[int] = frozenset()
        self._clone = self._vfork = -1
        self._outside: frozenset[int] = frozenset()
        self._services: Services | None = None

    def traps(self) -> Sequence[Trap]:
        """Every way to make a process; threads are not trapped, and clone3 is refused by the filter."""
        reason = "a new process is counted"
        return (
            Trap("fork", self._handle, reason),
            Trap("vfork", self._handle, reason),
            Trap("clone", self._handle, reason, (lacks_bits(0, _CLONE_THREAD),)),
        )

    def attach(self, services: Services) -> None:
        """Count the first process."""
        self._services = services
        numbers = (services.arch.syscalls.get(name) for name in ("fork", "vfork", "clone"))
        self._forks = frozenset(number for number in numbers if number is not None)
        self._clone = services.arch.syscalls["clone"]
        self._vfork = services.arch.syscalls.get("vfork", -1)
        self._outside = between(services.processes.root, services.pid)
        self._known.add(services.processes.register(services.pid))
        self._seen.add(services.pid)
        services.processes.on_exit(self._exited)

    def controls(self) -> Mapping[str, Callable[..., None]]:
        """Let the limit be lowered; processes that are there stay."""
        return {"restrict_max_processes": self._lower}

    def _lower(self, limit: int) -> None:
        self.limit = min(self.limit, limit)

    def _exited(self, process: Process) -> None:
        self._known.discard(process)  # of the last census: each makes a set of its own

    async def close(self) -> None:
        """End the tracer."""
        await self._tracer.close()

    @property
    def count(self) -> Count:
        """The processes as far as they are known now: known and promised together are never too few."""
        return Count(len(self._known), self._promised, len(self._dead))

    def _handle(self, request: Request) -> Outcome:
        self._in_flight.pop(request.tid, None)  # whoever asks again has left the fork before
        self._suspended.discard(request.tid)
        if decide_fork(self.count, self.limit, self._zombies):
            return self._ask(request, self._censuses)
        self._grant(request)
        return None

    def _grant(self, request: Request) -> None:
        """Promise a place; the call is left to the next handler, which may still refuse it."""
        flags = request.args[0] if request.nr == self._clone else 0
        if flags & (_CLONE_VM | _CLONE_VFORK) == _CLONE_VM:
            self._vfork_only = False
        self._in_flight[request.tid] = request.nr == self._vfork or bool(flags & _CLONE_VFORK)
        self._promised += 1
        self._granted = True

    async def _ask(self, request: Request, censuses: int) -> Action | None:
        """Decide where the limit seems to be reached.

        One census serves all who asked before it was made, as long as nobody was let through since: what was promised
        after it may have come to life and ended again.
        """
        async with self._lock:
            refusal = decide_fork(self.count, self.limit, self._zombies)
            if refusal and (self._censuses == censuses or self._granted):
                if not await self._census():
                    return Errno(EAGAIN, "max_processes: too many come and go to be counted")
                refusal = decide_fork(self.count, self.limit, self._zombies)
            if not request.waits():
                raise VanishedError
            if refusal:
                return Errno(EAGAIN, refusal)
            self._grant(request)
            return None

    async def _census(self) -> bool:
        """Replace what is promised by what is there; return False when the tree would not hold still."""
        services = self._services
        assert services is not None  # noqa: S101  # attached before the first request
        await self._settle()
        for attempt in range(_WALKS):
            found = census(services.processes, self._outside)
            if found is not None:
                living, self._dead = found
                # What was there before is not born, also where it ended since: such a promise would be taken for kept.
                born = {member.pid for member in living if member not in self._known} | self._dead - self._seen
                self._seen = {member.pid for member in living} | self._dead
                self._arrived(len(born), [member.pid for member in living])
                self._known = {member for member in living if not member.gone}
                self._promised, self._granted = len(self._in_flight), False
                self._censuses += 1
                return True
            await asyncio.sleep(_POLL_S * attempt)
        return False

    def _arrived(self, born: int, living: Sequence[int]) -> None:
        """Drop those suspended by vfork whose children are among the living, and so counted already."""
        vforks = {tid for tid, suspends in self._in_flight.items() if suspends}
        parents = vforks | self._suspended
        if born >= self._promised:  # as many new ones as were promised
            self._suspended |= vforks
            self._in_flight.clear()
        elif self._vfork_only:
            for tid in vforks:
                # Who vforks shares its memory with the child until it is let go. So all of these have their children
                # when as many others share it as are in a vfork there. A fork that waits for a lock of its memory has
                # none yet, whoever else shares it.
                sharing = sum(same_memory(tid, pid) for pid in living) - 1
                if sharing >= sum(same_memory(tid, other) for other in parents):
                    del self._in_flight[tid]
                    self._suspended.add(tid)

    async def _settle(self) -> None:
        """Wait until the threads let through have left their forks, all but those suspended by vfork."""
        begin = time.monotonic()
        self._suspended -= {tid for tid in self._suspended if decide_settled(_doing(tid, self._forks), patient=True)}
        while self._in_flight:
            late = time.monotonic() - begin
            doing = {tid: _doing(tid, self._forks) for tid in self._in_flight}
            for tid, what in doing.items():
                settled = decide_settled(what, patient=late < _PATIENCE_S)
                if settled or (settled is None and await self._stopped(tid, begin + _SETTLE_S)):
                    self._in_flight.pop(tid, None)
            if late > _SETTLE_S or (late > _PATIENCE_S and Thread.RUNNING not in doing.values()):
                return
            await asyncio.sleep(_POLL_S)

    async def _stopped(self, tid: int, end: float) -> bool:
        """Stop a thread for a moment; False when it was not to be had by `end`, or another traces it."""
        # Safety: the thread that we let through, or, if that is gone and its id given away, another of this user's,
        # which is stopped for a moment and goes on.
        job = asyncio.ensure_future(self._tracer.run(lambda: pass_through(tid)))
        job.add_done_callback(_hear)
        # It may be in its next fork by now, which waits for this census, and does not stop before it is answered.
        while not job.done() and tid in self._in_flight:
            if time.monotonic() > end:
                return False
            await asyncio.wait({job}, timeout=_POLL_S)
        return not job.done() or job.exception() is None


def _hear(job: asyncio.Future[bool]) -> None:
    """Take note of what became of a job that nobody may wait for any more: the thread has another tracer, say."""
    if not job.cancelled():
        job.exception()


def _doing(tid: int, forks: frozenset[int]) -> str:
    try:
        call = current_call(tid)
    except ProcessLookupError:
        return Thread.GONE
    except PermissionError:
        return Thread.HIDDEN
    if call is None:
        return Thread.RUNNING
    return Thread.FORKING if call in forks else Thread.ELSEWHERE
