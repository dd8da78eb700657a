"""Many sandboxes at once, and interruptions in the middle: nothing is left."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import pytest
from runtime_lab import box, is_alive, wait_until

from sandlock_runtime import PIPE, Result, SandboxBusyError

pytestmark = pytest.mark.usefixtures("leaks")


def test_many_sandboxes_run_at_once_and_keep_apart() -> None:
    def one(number: int) -> tuple[int, bytes, bytes]:
        result = box(env={"N": str(number)}).run(["sh", "-c", "cat; echo $N >&2; exit $N"], input=b"%d" % number * 9999)
        return result.exit_code, result.stdout, result.stderr

    with ThreadPoolExecutor(24) as pool:
        results = list(pool.map(one, range(120)))
    assert results == [(n, b"%d" % n * 9999, b"%d\n" % n) for n in range(120)]


def test_threads_that_share_one_object_take_turns_or_are_told() -> None:
    sandbox = box()

    def one(_: int) -> Result | None:
        try:
            return sandbox.run(["sleep", "0.02"])
        except SandboxBusyError:
            return None

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(64)))
    done = [result for result in results if result is not None]
    assert done and all(result.success for result in done) and None in results


def test_kill_from_another_thread_ends_a_run() -> None:
    sandbox = box()
    results: list[Result] = []
    thread = Thread(target=lambda: results.append(sandbox.run(["sleep", "60"])))
    thread.start()
    wait_until(lambda: sandbox.is_running)
    sandbox.kill()
    thread.join(20)
    assert [result.reason for result in results] == ["KILLED"]


def test_orders_from_many_threads_race_with_the_end() -> None:
    def once(number: int) -> str:
        sandbox = box()
        with sandbox.popen(["sleep", f"0.0{number % 10}"]) as process:
            others = [Thread(target=order) for order in (sandbox.kill, process.terminate, process.kill, process.poll)]
            for other in others:
                other.start()
            result = process.wait(20)
            for other in others:
                other.join()
        return result.reason

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(once, range(40))) <= {"EXITED", "KILLED", "SIGNALED"}


def test_two_threads_may_wait_for_one_process() -> None:
    with box().popen(["sleep", "0.2"], stdout=PIPE) as process:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: process.wait(20), range(4)))
        assert all(result is results[0] for result in results)


def test_an_interrupt_in_a_run_kills_its_program() -> None:
    def interrupt(*_: object) -> None:
        pids.append(sandbox.pid)
        raise KeyboardInterrupt

    pids: list[int | None] = []
    sandbox = box()
    before = signal.signal(signal.SIGALRM, interrupt)
    started = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            sandbox.run(["sh", "-c", "trap '' INT TERM; sleep 60"])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 10
    assert pids[0] is not None and not is_alive(pids[0])
