"""Stop every task of a sandbox, and let them all go on: for a pause, and for whoever must see a tree that stands still.

Each task is seized and interrupted by a thread of its own, and held there. From the interrupt on it executes nothing
more of its program: it stops where it is, or, inside a kernel call that nothing interrupts (a vfork, a notification
that waits for its answer), as soon as that ends. A fork that is under way sees the interrupt and starts anew later. So
the tree stands still once a walk finds nobody who is not held.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
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

    __slots__ = ("error", "ready", "stopped", "tid")

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self.ready = threading.Event()
        self.stopped = False
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
            with interrupted(self.tid):
                self.ready.set()
                change = _first_change()
        finally:
            self.ready.set()
        while isinstance(change, ptrace.Stopped):
            self.stopped = True
            thaw.wait()
            with suppress(SyscallError):  # killed meanwhile; then it is reaped
                ptrace.detach(change.tid, change.pending_signal)
                return
            change = _first_change()


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
    except BaseException as error:
        await frozen.thaw()
        if isinstance(error, TimeoutError):
            raise FreezeError("an exec does not end") from error
        raise
    return frozen


async def _hold_all(frozen: Frozen, find: Callable[[], tuple[list[int], bool]], tracer: Tracer, end: float) -> None:
    """Hold who is found until nobody new is. Raises FreezeError."""
    loop = asyncio.get_running_loop()
    held = frozen._held
    quiet = 0
    while quiet < 2:
        new, complete = find()
        quiet = quiet + 1 if complete and not new else 0
        if loop.time() > end or len(held) + len(new) > MAX_TASKS:
            raise FreezeError(f"{len(held)} tasks are stopped, and {new} are not")
        for tid in new:
            one = held[tid] = _Held(tid)
            frozen._jobs.add(asyncio.ensure_future(tracer.run(partial(one.hold, frozen._thaw))))
        if await _seized(held, end):
            quiet = 0
        await asyncio.sleep(_LOOK_S)


def _new_threads(processes: Processes, outside: frozenset[int], held: dict[int, _Held]) -> tuple[list[int], bool]:
    """Return the threads that are not held, and whether nobody can have been missed."""
    members, _, complete = look(processes, outside)
    new: list[int] = []
    for member in members:
        try:
            new += [tid for tid in threads_of(member.pid) if tid not in held and not _ended(member.pid, tid)]
        except ProcessLookupError:
            complete = False
    return new, complete


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
