"""`SandboxExecutor`: a `concurrent.futures.Executor` whose workers are confined interpreters."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

from sandlock_policy.presets import preset
from sandlock_runtime.code_paths import with_code
from sandlock_runtime.pickling import pickled
from sandlock_runtime.task_host import TaskHost

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar, Unpack

    from sandlock_policy import Policy
    from sandlock_policy.inputs import PolicyInputs

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["SandboxExecutor"]

_MAX_RESULT = 256 << 20


class SandboxExecutor(Executor):
    """Runs functions in confined worker processes, as `ProcessPoolExecutor` does in unconfined ones.

    Functions and arguments are pickled and unpickled inside. Results are not pickles: a result is read as plain data
    (numbers, text, bytes, containers of these, arrays of numbers), so that a worker which hostile code has taken over
    cannot run anything in this process. Tasks of one worker share it: `max_tasks_per_child=1` gives each its own.

    Arguments:
        max_workers: workers at the same time; the number of processors when None.
        policy: what a task may do; the preset "python" when None. Its `timeout` bounds each task.
        initializer: called in each worker before its first task, with `initargs`.
        max_tasks_per_child: tasks until a worker is replaced by a fresh one; None for any number.
        results: "plain", or "pickle": then results may be any object, and a hostile task runs code in this process.
        max_result: bytes that one answer may have.
        grant_code: the folders of `sys.path` and of the interpreter are readable inside. Never the home directory or
            one that holds it; grant what is imported from there by name.
        fields: fields of `Policy`, instead of the policy's own.

    Raises:
        PolicyError: the fields contradict the grammar or each other.

    """

    def __init__(
        self,
        max_workers: int | None = None,
        policy: Policy | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        results: str = "plain",
        max_result: int = _MAX_RESULT,
        grant_code: bool = True,
        **fields: Unpack[PolicyInputs],
    ) -> None:
        workers = len(os.sched_getaffinity(0)) if max_workers is None else max_workers
        bounds = {"max_workers": workers, "max_result": max_result, "max_tasks_per_child": max_tasks_per_child}
        for name, number in bounds.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} is a number from 1 on, not {number}")
        if results not in ("plain", "pickle"):
            raise ValueError(f'results is "plain" or "pickle", not {results!r}')
        base = preset("python") if policy is None else policy
        base = base.replace(**fields) if fields else base
        if grant_code:
            base = with_code(base)
        begin = None if initializer is None else pickled((initializer, initargs, {}))
        self._pool = _Pool(workers, base, begin, max_tasks_per_child, results, max_result)
        # Also at the end of the interpreter, where what was submitted is waited for, as in the standard library.
        self._finalizer = weakref.finalize(self, self._pool.close, wait=True)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` in a worker; RuntimeError after `shutdown`."""
        return self._pool.submit(fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # as the base
        """Take no more tasks; wait for those that are there, or cancel those that have not begun."""
        self._pool.close(wait=wait, cancel=cancel_futures)

    def kill_workers(self) -> None:
        """Kill all workers and cancel what has not begun; no more tasks are taken."""
        self._pool.kill()


class _Pool:
    """Threads, each of which has a worker; they keep no reference to the executor, so that it can be collected."""

    def __init__(
        self, workers: int, policy: Policy, begin: bytes | None, tasks_each: int | None, results: str, max_result: int
    ) -> None:
        self._limit = workers
        self._policy = policy
        self._begin = begin
        self._tasks_each = tasks_each
        self._results = results
        self._max_result = max_result
        self._queue: queue.SimpleQueue[tuple[Future[Any], Any, Any, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._hosts: set[TaskHost] = set()
        self._closed = False
        self._killed = False

    def submit(self, function: Callable[..., Any], args: Any, named: Any) -> Future[Any]:
        """Queue one task, and start one more thread where all are busy."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor was shut down: it takes no more tasks")
            self._queue.put((future, function, args, named))
            if len(self._threads) < self._limit and not self._idle.acquire(blocking=False):
                thread = threading.Thread(target=self._serve, name="sandlock-executor", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def close(self, *, wait: bool, cancel: bool = False) -> None:
        """Take no more; let the threads end behind what is queued."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._queue.put(None)
            if cancel:
                self._cancel()
            threads = list(self._threads)
        if wait:
            for thread in threads:
                thread.join()

    def kill(self) -> None:
        """As `close`, and kill what runs."""
        self._killed = True
        self.close(wait=False, cancel=True)
        with self._lock:
            hosts = list(self._hosts)
        for host in hosts:
            host.kill()

    def _cancel(self) -> None:
        ends = 0
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                ends += 1
            else:
                item[0].cancel()
                item[0].set_running_or_notify_cancel()
        for _ in range(ends):
            self._queue.put(None)

    def _serve(self) -> None:
        host: TaskHost | None = None
        done = 0
        try:
            while (item := self._next()) is not None:
                future, function, args, named = item
                if future.set_running_or_notify_cancel():
                    host, done = self._perform(host, done, future, function, args, named)
                del item, future, function, args, named  # nothing of the last task is held while waiting
                if host is not None and (done == self._tasks_each or not host.alive):
                    self._drop(host)
                    host, done = None, 0
        finally:
            if host is not None:
                self._drop(host)

    def _next(self) -> tuple[Future[Any], Any, Any, Any] | None:
        """Return the next task, or None at the end; whoever waits for it counts as idle."""
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            self._idle.release()
            return self._queue.get()

    def _perform(
        self, host: TaskHost | None, done: int, future: Future[Any], function: Any, args: Any, named: Any
    ) -> tuple[TaskHost | None, int]:
        """Do one task and settle its future; return the worker and how many tasks it has done."""
        try:
            task = pickled((function, args, named))
            if host is None:
                host = self._new_host()
            result = host.call(task)
        except BaseException as error:  # noqa: BLE001  # it is the future's
            future.set_exception(error)
        else:
            future.set_result(result)
        return host, done + 1

    def _new_host(self) -> TaskHost:
        host = TaskHost(self._policy, self._results, self._max_result)
        with self._lock:
            self._hosts.add(host)
            if self._killed:
                host.kill()
        try:
            host.begin()
            if self._begin is not None:
                host.call(self._begin)
        except BaseException:
            self._drop(host)
            raise
        return host

    def _drop(self, host: TaskHost) -> None:
        with self._lock:
            self._hosts.discard(host)
        host.close()
