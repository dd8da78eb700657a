"""The event loop of the supervisors: one thread per process, started when the first sandbox needs it."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, TypeVar

from sandlock_runtime.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["LoopThread", "shared_loop"]

T = TypeVar("T")
_lock = threading.Lock()
_shared: LoopThread | None = None


class LoopThread:
    """An asyncio loop in a daemon thread of its own. It belongs to the process that started it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sandlock-supervisor", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[object, object, T]) -> T:
        """Run `work` on the loop and return its value, or raise what it raised.

        Raises:
            SandboxError: called on the loop itself, which would wait for itself.

        """
        if threading.current_thread() is self._thread:
            work.close()
            raise SandboxError("a handler cannot start or end a sandbox: it runs in the supervisor's own thread")
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    @property
    def alive(self) -> bool:
        """Whether the thread runs, in this process."""
        return self.pid == os.getpid() and self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


def shared_loop() -> LoopThread:
    """Return this process's loop, started if it is not running; after a fork the child gets one of its own."""
    global _shared  # noqa: PLW0603  # one loop per process serves all sandboxes
    with _lock:
        if _shared is None or not _shared.alive:
            _shared = LoopThread()
        return _shared
