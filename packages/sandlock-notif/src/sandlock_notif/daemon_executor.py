"""An executor whose threads do not keep the host's interpreter from ending.

`concurrent.futures` joins its threads when the interpreter ends. Ours may wait for a stopped task, a dead file system
or a FIFO that nobody opens, for ever: a host that is done would hang with them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DaemonExecutor", "in_thread", "retire"]

P = ParamSpec("P")
Result = TypeVar("Result")
_Job = tuple["Callable[[], object]", "Future[object]"]


_leaving = threading.local()


def retire() -> None:
    """Let the calling thread of a `DaemonExecutor` end after this job, with all that the kernel keeps for it."""
    _leaving.now = True


class DaemonExecutor(Executor):
    """At most `workers` daemon threads, each started when no other is idle.

    Arguments:
        workers: threads at once; further jobs queue.
        name: prefix of the threads' names.
        begin: called first in each thread.

    """

    def __init__(self, workers: int, name: str, begin: Callable[[], object] | None = None) -> None:
        self._workers = workers
        self._name = name
        self._begin = begin
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Future[Result]:
        """Run `fn` in a thread.

        Raises:
            RuntimeError: shut down.

        """
        future: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self._name}: shut down, no more jobs are taken")
            if self._idle:
                self._idle -= 1
            elif len(self._threads) < self._workers:
                self._threads.append(self._started(f"{self._name}_{len(self._threads)}"))
            self._jobs.put((lambda: fn(*args, **kwargs), future))  # type: ignore[arg-type]  # Future is invariant
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # Executor's
        """Take no more jobs; drop those that wait if asked; let the threads end after theirs."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._drop()
            for _ in self._threads:
                self._jobs.put(None)
        if wait:
            self.join()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until every thread has ended, after a shutdown; False when `timeout_s` seconds did not suffice."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _started(self, name: str) -> threading.Thread:
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        thread.start()
        return thread

    def _replace(self) -> None:
        """Start another thread in the place of this one, also while it is shut down: what ends this one is for that."""
        with self._lock:
            this = threading.current_thread()
            self._threads[self._threads.index(this)] = self._started(this.name)
            self._idle += 1

    def _drop(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None:
                job[1].cancel()

    def _work(self) -> None:
        if self._begin is not None:
            self._begin()
        while True:
            job = self._jobs.get()
            if job is None:
                return
            call, future = job
            if future.set_running_or_notify_cancel():
                try:
                    value = call()
                except BaseException as error:  # noqa: BLE001  # whatever it is, it belongs to the one who waits
                    future.set_exception(error)
                else:
                    future.set_result(value)
                    del value
            del job, call, future  # an idle thread holds nobody's objects
            if getattr(_leaving, "now", False):
                self._replace()
                return
            with self._lock:
                self._idle += 1


async def in_thread(call: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Result:
    """Run `call` in a daemon thread of its own, which ends with it: asyncio.to_thread's stay, and hold the host up."""
    pool = DaemonExecutor(1, "sandlock-once")
    try:
        return await asyncio.wrap_future(pool.submit(call, *args, **kwargs))
    finally:
        pool.shutdown(wait=False)
