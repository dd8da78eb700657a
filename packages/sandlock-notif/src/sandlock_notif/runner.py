"""Runs the caller's functions, plain or async, outside the supervisor's loop and within a time.

A plain function gets a thread of a small pool, a coroutine a loop of its own, so neither can hold a sandbox up. The
threads are daemons: a function that never returns must not keep the host's interpreter from ending.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from typing import TYPE_CHECKING, Any

from sandlock_notif.errors import contained

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LIMIT", "Late", "Runner"]

LIMIT = 16
"""Functions of one sandbox that run at once; more wait for a thread, within their time."""


class Late:
    """What one function returned: taken once, or disposed of once, whichever thread notices first that it is late."""

    __slots__ = ("_dispose", "_given_up", "_held", "_lock")

    def __init__(self, dispose: Callable[[object], None] | None) -> None:
        self._dispose = dispose
        self._lock = threading.Lock()
        self._held: list[object] = []
        self._given_up = False

    def offer(self, value: object) -> None:
        """Keep it for who waits, or dispose of it."""
        with self._lock:
            late = self._given_up
            if not late:
                self._held.append(value)
        if late:
            self._forget(value)

    def take(self) -> object:
        """Return what was offered."""
        return self._held.pop()

    def give_up(self) -> None:
        """Have it disposed of, now or when it comes."""
        with self._lock:
            self._given_up = True
        while self._held:
            self._forget(self._held.pop())

    def _forget(self, value: object) -> None:
        if inspect.iscoroutine(value):
            value.close()
        elif self._dispose is not None:
            self._dispose(value)


class Runner:
    """The threads of one sandbox's callbacks; nothing is started before the first call.

    Arguments:
        dispose: takes what a function returned too late, in any thread; it must not raise.

    """

    def __init__(self, dispose: Callable[[object], None] | None = None) -> None:
        self._dispose = dispose
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, function: Callable[..., object], *arguments: object, timeout_s: float) -> object:
        """Return what `function` returns, awaited if it is awaitable.

        Raises:
            TimeoutError: it took longer than `timeout_s` seconds, waiting for a thread included. It may run on; what it
                returns then is disposed of.
            Exception: what it raised, as an error that ends no loop.

        """
        answer = Late(self._dispose)
        try:
            async with asyncio.timeout(timeout_s):
                await self._in_thread(lambda: function(*arguments), answer)
                value = answer.take()
                if inspect.isawaitable(value):
                    waiting = _await(value, answer)
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(waiting, self._own_loop()))
                    value = answer.take()
        except BaseException:
            answer.give_up()
            raise
        return value

    def close(self) -> None:
        """Let idle threads end; one that is busy ends after its function."""
        for _ in range(self._threads):
            self._jobs.put(None)
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    async def _in_thread(self, function: Callable[[], object], answer: Late) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self.start(lambda: self._do(function, loop, future, answer))
        await future

    @property
    def free(self) -> bool:
        """Whether a job would get a thread at once."""
        return self._idle > 0 or self._threads < LIMIT

    def start(self, job: Callable[[], None]) -> None:
        """Let a thread do `job`, which must not raise."""
        with self._lock:
            if not self._idle and self._threads < LIMIT:
                threading.Thread(target=self._work, name="sandlock-callback", daemon=True).start()
                self._threads += 1
            elif self._idle:
                self._idle -= 1
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()
            with self._lock:
                self._idle += 1

    def _do(
        self,
        function: Callable[[], object],
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[None],
        answer: Late,
    ) -> None:
        if future.done():  # whoever asked has given up: what a flood left in the queue costs nothing more
            return
        error: Exception | None = None
        try:
            answer.offer(function())
        except BaseException as raised:  # noqa: BLE001  # whatever it is, it belongs to the one who waits
            error = contained(raised)
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, future, error)

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=_run_loop, args=(self._loop,), name="sandlock-callbacks", daemon=True).start()
        return self._loop


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():  # it was late
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


async def _await(value: Any, answer: Late) -> None:  # anything with __await__
    try:
        answer.offer(await value)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # it was late
            raise
        raise contained(error) from error
    except BaseException as error:
        raise contained(error) from error
