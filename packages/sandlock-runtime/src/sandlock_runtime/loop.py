"""The event loops behind sandboxes, each a thread of the process, started when the first sandbox needs it."""

from __future__ import annotations

import asyncio
import os
import threading
from _thread import allocate_lock
from typing import TYPE_CHECKING, TypeVar

from sandlock_runtime.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["LoopThread", "proxy_loop", "shared_loop"]

T = TypeVar("T")
_IN_ITSELF = "a handler cannot start, end or ask a sandbox: it runs in the supervisor's own thread"
_lock = threading.Lock()
_loops: dict[str, LoopThread] = {}


class LoopThread:
    """An asyncio loop in a daemon thread of its own. It belongs to the process that started it."""

    def __init__(self, name: str) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[object, object, T]) -> T:
        """Run `work` on the loop and return its value, or raise what it raised.

        Raises:
            SandboxError: called on the loop itself, which would wait for itself.

        """
        if threading.current_thread() is self._thread:
            work.close()
            raise SandboxError(_IN_ITSELF)
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def do(self, work: Callable[[], None]) -> None:
        """As `call`, for what waits for nothing: a launch needs no task, no future, and fewer turns of the loop."""
        if threading.current_thread() is self._thread:
            raise SandboxError(_IN_ITSELF)
        raised: list[BaseException] = []
        done = allocate_lock()
        done.acquire()

        def step() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  # it belongs to the one who waits
                raised.append(error)
            finally:
                done.release()

        self.loop.call_soon_threadsafe(step)
        done.acquire()
        if raised:
            raise raised.pop()

    @property
    def alive(self) -> bool:
        """Whether the thread runs, in this process."""
        return self.pid == os.getpid() and self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


def shared_loop() -> LoopThread:
    """Return this process's loop of supervisors, started if it is not running; after a fork the child has its own."""
    return _loop("sandlock-supervisor")


def proxy_loop() -> LoopThread:
    """Return this process's loop of HTTP proxies: a large transfer or a TLS handshake holds no supervisor up."""
    return _loop("sandlock-proxy")


def _loop(name: str) -> LoopThread:
    with _lock:
        found = _loops.get(name)
        if found is None or not found.alive:
            found = _loops[name] = LoopThread(name)
        return found
