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

__all__ = ["LIMIT", "Runner"]

LIMIT = 16
"""Functions of one sandbox that run at once; more wait for a thread, within their time."""

_Job = tuple["Callable[[], object]", "asyncio.AbstractEventLoop", "asyncio.Future[object]"]


class Runner:
    """The threads of one sandbox's callbacks; nothing is started before the first call."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, function: Callable[..., object], *arguments: object, timeout_s: float) -> object:
        """Return what `function` returns, awaited if it is awaitable.

        Raises:
            TimeoutError: it took longer than `timeout_s` seconds, waiting for a thread included. It may run on; what it
                returns then is dropped.
            Exception: what it raised, as an error that ends no loop.

        """
        async with asyncio.timeout(timeout_s):
            value = await self._in_thread(lambda: function(*arguments))
            if inspect.isawaitable(value):
                value = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_await(value), self._own_loop()))
            return value

    def close(self) -> None:
        """Let idle threads end; one that is busy ends after its function."""
        for _ in range(self._threads):
            self._jobs.put(None)
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    async def _in_thread(self, function: Callable[[], object]) -> object:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        with self._lock:
            if not self._idle and self._threads < LIMIT:
                self._threads += 1
                threading.Thread(target=self._work, name="sandlock-callback", daemon=True).start()
            elif self._idle:
                self._idle -= 1
        self._jobs.put((function, loop, future))
        return await future

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            function, loop, future = job
            if future.done():  # whoever asked has given up: what a flood left in the queue costs nothing more
                with self._lock:
                    self._idle += 1
                continue
            try:
                value: object = function()
                error: Exception | None = None
            except BaseException as raised:  # noqa: BLE001  # whatever it is, it belongs to the one who waits
                value, error = None, contained(raised)
            with self._lock:
                self._idle += 1
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, future, value, error)

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


def _settle(future: asyncio.Future[object], value: object, error: Exception | None) -> None:
    if future.done():  # it was late
        if inspect.iscoroutine(value):
            value.close()
    elif error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


async def _await(value: Any) -> object:  # anything with __await__
    try:
        result: object = await value
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # it was late
            raise
        raise contained(error) from error
    except BaseException as error:
        raise contained(error) from error
    return result
