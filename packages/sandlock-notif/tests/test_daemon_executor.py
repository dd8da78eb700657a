"""Threads that wait for what never comes, and a host that wants to end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time

import pytest

from sandlock_notif.daemon_executor import DaemonExecutor, in_thread

_HOST = """
import sys, threading
from {module} import {name}
waiting = threading.Event()
def job():
    waiting.set()
    threading.Event().wait()
{name}({arguments}).submit(job)
waiting.wait()
print("done")
"""


def test_a_host_ends_while_a_job_waits_for_ever() -> None:
    script = _HOST.format(module="sandlock_notif.daemon_executor", name="DaemonExecutor", arguments="1, 'x'")
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "done\n"


def test_the_standard_one_would_hang_there() -> None:
    script = _HOST.format(module="concurrent.futures", name="ThreadPoolExecutor", arguments="1")
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=3, check=True)


def test_jobs_give_their_values_and_errors_and_idle_threads_are_used_again() -> None:
    pool = DaemonExecutor(4, "few")
    try:
        names = set()
        for number in range(8):
            names.add(pool.submit(lambda: threading.current_thread().name).result(10))
            assert pool.submit(divmod, 7, number + 1).result(10) == divmod(7, number + 1)
            time.sleep(0.01)  # until the thread is idle again
        assert len(names) < 4
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result(10)
    finally:
        pool.shutdown()


def test_more_jobs_than_workers_wait_and_are_dropped_when_asked() -> None:
    pool = DaemonExecutor(1, "one")
    begun, go = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return go.wait(30)

    first = pool.submit(work)
    assert begun.wait(30)
    second = pool.submit(os.getpid)
    pool.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    assert not pool.join(0.05)
    go.set()
    assert first.result(10)
    assert pool.join(10)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(os.getpid)


def test_a_thread_for_one_call_ends_with_it() -> None:
    async def twice() -> tuple[str, str]:
        def fail() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await in_thread(fail)
        return await in_thread(lambda: threading.current_thread().name), threading.current_thread().name

    inside, outside = asyncio.run(twice())
    assert inside != outside
    deadline = time.monotonic() + 10
    while any(thread.name == inside for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name == inside for thread in threading.enumerate())
