"""A bounded number of tasks, fair between owners."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["TaskPool"]


class TaskPool:
    """Runs coroutines as tasks: at most `limit` at once, and `per_owner` of them for one owner; others wait in order.

    Arguments:
        limit: tasks at once.
        per_owner: of these, for one owner, so that one that floods leaves room for the others.
        failed: told what a task raised, except its cancellation.

    """

    def __init__(self, limit: int, per_owner: int, failed: Callable[[BaseException], None]) -> None:
        self._limit = limit
        self._per_owner = per_owner
        self._failed = failed
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._running: dict[int, int] = {}
        self._queue: deque[tuple[int, Callable[[], Coroutine[object, object, None]], Callable[[], None]]] = deque()

    def __len__(self) -> int:
        return len(self._tasks) + len(self._queue)

    def add(self, owner: int, start: Callable[[], Coroutine[object, object, None]], drop: Callable[[], None]) -> None:
        """Run what `start` returns as soon as there is room; `drop` is called instead when the pool closes first."""
        self._queue.append((owner, start, drop))
        self._fill()

    async def close(self) -> None:
        """Drop what waits, cancel what runs, and wait for it."""
        while self._queue:
            self._queue.popleft()[2]()
        if self._tasks:
            await asyncio.sleep(0)  # a task cancelled before its first step would never see it
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(list(self._tasks))

    def _fill(self) -> None:
        """Start what may run, the oldest first; nobody is overtaken by another of the same owner."""
        passed: list[tuple[int, Callable[[], Coroutine[object, object, None]], Callable[[], None]]] = []
        while self._queue and len(self._tasks) < self._limit:
            owner, start, drop = self._queue.popleft()
            if self._running.get(owner, 0) >= self._per_owner:
                passed.append((owner, start, drop))
                continue
            self._running[owner] = self._running.get(owner, 0) + 1
            task = asyncio.ensure_future(start())
            self._tasks[task] = owner
            task.add_done_callback(self._done)
        self._queue.extendleft(reversed(passed))

    def _done(self, task: asyncio.Task[None]) -> None:
        owner = self._tasks.pop(task)
        left = self._running[owner] - 1
        if left:
            self._running[owner] = left
        else:
            del self._running[owner]
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                self._failed(error)
        if self._queue:
            self._fill()
