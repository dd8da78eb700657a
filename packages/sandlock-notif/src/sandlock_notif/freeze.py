"""Stop every task of a sandbox, and let them all go on: for a pause, and for whoever must see a tree that stands still.

Each task is seized and interrupted by a thread of its own, and held there. From the interrupt on it executes nothing
more of its program: it stops where it is, or, inside a kernel call that nothing interrupts (a vfork, a notification
that waits for its answer), as soon as that ends. A fork that is under way sees the interrupt and starts anew later. So
the tree stands still once a walk finds nobody who is not held.

A walk misses who gets another parent at that moment, because the one it had was killed, and who stands in a list from
which another is taken while it is read. Nobody held runs, but a timer that was set before may kill. So a walk counts
only if nobody ended or was buried meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from errno import ECHILD, EPERM, ESRCH
from functools import partial
from typing import TYPE_CHECKING

from sandlock_notif.errors import NotifError
from sandlock_notif.task_facts import contents, threads_of
from sandlock_notif.tracing import interrupted
from sandlock_notif.tree import look
from sandlock_sys import ptrace
from sandlock_sys.constants.ptrace import Option, WaitOption
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif.processes import Processes
    from sandlock_notif.tracing import ExecGate, Tracer

    _Found = tuple[list[int], frozenset[int], bool]
    _Find = Callable[[], _Found]

__all__ = ["MAX_TASKS", "FreezeError", "Frozen", "freeze_tree"]

MAX_TASKS = 2048
"""Tasks of one tree; each needs a thread of ours while it is held."""
_DEADLINE_S = 10.0  # a tree as busy as it can be, on a machine that is, too
_SETTLE_S = 0.02  # for those that are about to stop
_THAW_S = 0.1
_LOOK_S = 0.005
_MINE = WaitOption.NOTHREAD | WaitOption.NOHANG | 0x4000_0000  # __WALL


class FreezeError(NotifError):
    """The tree could not be stopped; nobody is held any more."""


class _Held:
    """One task, in the hand of the thread that runs `hold`."""

    __slots__ = ("broken", "error", "ready", "stopped", "tid")

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self.ready = threading.Event()
        self.stopped = False
        self.broken = False  # it cannot be held, nor let go: it ends with the thread that traces it
        self.error = 0

    def hold(self, thaw: threading.Event) -> None:
        """Seize the task, keep it until `thaw`, and let it go; or reap it, so that no exec waits for us."""
        try:
            ptrace.seize(self.tid, Option.EXITKILL)
        except SyscallError as error:
            self.error = error.errno or EPERM
            self.ready.set()
            return
        try:
            self._keep(thaw)
        except BaseException:
            self.broken = True
            raise
        finally:
            self.ready.set()

    def _keep(self, thaw: threading.Event) -> None:
        with interrupted(self.tid):
            self.ready.set()
            change = _first_change()
        while isinstance(change, ptrace.Stopped):
            self.stopped = True
            thaw.wait()
            try:
                ptrace.detach(change.tid, change.pending_signal)
            except SyscallError as error:
                if error.errno != ESRCH:
                    raise
                change = _first_change()  # killed meanwhile; then it is reaped
            else:
                return


def _first_change() -> ptrace.Change | None:
    """Wait until this thread's tracee stops or ends; None when it vanished in the exec of another thread.

    When it is no longer wanted, it stops all the same, and is let go at once.
    """
    pause_s = 0.0002
    while True:
        try:
            change = ptrace.wait(-1, _MINE)
        except SyscallError as error:
            if error.errno == ECHILD:
                return None
            raise
        if change is not None:
            return change
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.01)


class _Interrupted:
    """The threads that will stop as soon as the kernel call ends that they are in, and have not stopped yet."""

    __slots__ = ("_held",)

    def __init__(self, held: dict[int, _Held]) -> None:
        self._held = held

    def __contains__(self, tid: object) -> bool:
        one = self._held.get(tid) if isinstance(tid, int) else None
        return one is not None and one.ready.is_set() and not one.error and not one.stopped


class Frozen:
    """A tree that stands still until `thaw`."""

    def __init__(self, gate: ExecGate | None) -> None:
        self._held: dict[int, _Held] = {}
        self._thaw = threading.Event()
        self._jobs: set[asyncio.Future[None]] = set()
        self._gate = gate

    @property
    def stopped(self) -> frozenset[int]:
        """Return the threads that have stopped by now."""
        return frozenset(tid for tid, one in self._held.items() if one.stopped)

    @property
    def waiting(self) -> frozenset[int]:
        """Return the threads that have not stopped yet and cannot run."""
        return frozenset(self._held) - self.stopped

    async def thaw(self) -> None:
        """Let all go on; those that are inside a kernel call as soon as it ends. Twice is fine."""
        gate, self._gate = self._gate, None
        if gate is not None:
            await gate.send_back(_Interrupted(self._held))
        self._thaw.set()
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=_THAW_S)
        if gate is not None:
            await gate.open()


async def freeze_tree(
    processes: Processes,
    outside: frozenset[int],
    tracer: Tracer,
    gate: ExecGate | None = None,
    deadline_s: float = _DEADLINE_S,
) -> Frozen:
    """Stop every task below the root of `processes`.

    Arguments:
        processes: the index, with its root.
        outside: processes below the root that are not the sandbox's, from `tree.between`.
        tracer: with room for MAX_TASKS workers, used for nothing else.
        gate: of the sandbox's `ExecTable`, if it has one: execs wait until the thaw.
        deadline_s: seconds until it is given up.

    Raises:
        FreezeError: a task has another tracer, there are too many, or new ones kept coming.

    """
    end = asyncio.get_running_loop().time() + deadline_s
    frozen = Frozen(gate)
    try:
        if gate is not None:
            await asyncio.wait_for(gate.shut(), deadline_s)
        await _hold_all(frozen, lambda: _new_threads(processes, outside, frozen._held), tracer, end)
        if gate is not None:
            await gate.send_back(_Interrupted(frozen._held))
        for _ in range(int(_SETTLE_S / _LOOK_S)):
            if frozen.waiting:
                await asyncio.sleep(_LOOK_S)
        _refuse_broken(frozen._held)
    except BaseException as error:
        await frozen.thaw()
        if isinstance(error, TimeoutError):
            raise FreezeError("an exec does not end") from error
        raise
    return frozen


async def _hold_all(frozen: Frozen, find: _Find, tracer: Tracer, end: float) -> None:
    """Hold who is found until nobody new is, and nobody ends any more. Raises FreezeError."""
    loop = asyncio.get_running_loop()
    held = frozen._held
    quiet, ended = 0, frozenset[int]()
    while quiet < 2:
        before, (new, ended, complete) = ended, find()
        # Who is dead in this walk and was not in the last one may have had children when the one above was asked.
        quiet = quiet + 1 if complete and not new and ended <= before else 0
        if loop.time() > end or len(held) + len(new) > MAX_TASKS:
            raise FreezeError(f"{len(held)} tasks are stopped, and {new} are not")
        for tid in new:
            one = held[tid] = _Held(tid)
            job = asyncio.ensure_future(tracer.run(partial(one.hold, frozen._thaw)))
            job.add_done_callback(_heard)
            frozen._jobs.add(job)
        if await _seized(held, end):
            quiet = 0
        _refuse_broken(held)
        await asyncio.sleep(_LOOK_S)


def _heard(job: asyncio.Future[None]) -> None:
    """Take note of an error, which the task itself is marked with."""
    if not job.cancelled():
        job.exception()


def _refuse_broken(held: dict[int, _Held]) -> None:
    broken = [tid for tid, one in held.items() if one.broken]
    if broken:
        raise FreezeError(f"threads {broken} could not be held by ptrace, and have been killed")


def _new_threads(processes: Processes, outside: frozenset[int], held: dict[int, _Held]) -> _Found:
    """Return the threads that are not held, the processes that have ended, and whether nobody ended meanwhile.

    The number of a process that has ended is its own as long as it is there, which is looked at in the end.
    """
    members, dead, complete = look(processes, outside)
    new: list[int] = []
    for member in members:
        try:
            new += [tid for tid in threads_of(member.pid) if tid not in held and not _ended(member.pid, tid)]
        except ProcessLookupError:
            complete = False
    complete = complete and all(os.access(f"/proc/{pid}", os.F_OK) for pid in dead)
    return new, frozenset(dead), complete and all(member.alive() for member in members)


def _ended(pid: int, tid: int) -> bool:
    """Whether a thread is a zombie: the first one of a process may end long before the others."""
    try:
        data = contents(f"/proc/{pid}/task/{tid}/stat")
    except OSError:
        return True
    return data[data.rindex(b")") + 2 :][:1] in (b"Z", b"X")


async def _seized(held: dict[int, _Held], end: float) -> bool:
    """Wait until every task is seized or gone, and tell whether one must be tried again. Raises FreezeError."""
    loop = asyncio.get_running_loop()
    again = False
    for tid, one in tuple(held.items()):
        while not one.ready.is_set():
            if loop.time() > end:
                raise FreezeError(f"thread {tid} cannot be seized: its process is executing a program")
            await asyncio.sleep(0.0005)
        if not one.error:
            continue
        del held[tid]
        if one.error != ESRCH:
            # Followed through an exec, by us, which takes a moment; or traced by another.
            again = True
            if loop.time() > end:
                raise FreezeError(f"thread {tid} cannot be seized: errno {one.error}")
    return again
