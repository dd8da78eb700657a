"""Sandboxes from asyncio."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from sandlock_runtime import CommandNotFoundError, Sandbox
from sandlock_runtime.aio import _Output as Output
from sandlock_runtime.streams import PIPE

pytestmark = pytest.mark.needs("landlock", level=1)

T = TypeVar("T")
SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache"]


def box(**fields: Any) -> Sandbox:
    return Sandbox(fs_readable=SYSTEM, **fields)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


def test_arun_feeds_and_collects_any_size() -> None:
    data = os.urandom(3 << 20)
    result = run(box().arun(["cat"], input=data))
    assert result.success
    assert result.stdout == data
    both = run(box().arun(["sh", "-c", "yes | head -c 1000000 >&2; echo out"], max_output=1000))
    assert (both.stdout, len(both.stderr), both.stderr_dropped) == (b"out\n", 1000, 999_000)


def test_the_loop_goes_on_while_programs_run() -> None:
    async def main() -> float:
        started = time.monotonic()
        results = await asyncio.gather(*[box().arun(["sleep", "0.5"]) for _ in range(20)])
        assert all(result.success for result in results)
        return time.monotonic() - started

    assert run(main()) < 8  # one after the other would take ten


def test_a_timeout_ends_the_tree_by_term_then_kill() -> None:
    result = run(box(grace=0.2).arun(["sh", "-c", "trap 'echo term' TERM; sleep 30 & wait; sleep 30"], timeout=0.3))
    assert (result.reason, result.stdout) == ("TIMEOUT", b"term\n")


def test_cancelling_kills_the_tree() -> None:
    mark = f"{time.time_ns()}"

    async def main() -> None:
        task = asyncio.ensure_future(box().arun(["sh", "-c", f"setsid sleep 4321 {mark} & sleep 60"]))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    alive = [pid for pid in os.listdir("/proc") if pid.isdigit() and mark in _command_of(pid)]
    assert alive == []


def _command_of(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def test_a_command_that_is_not_there_raises() -> None:
    with pytest.raises(CommandNotFoundError):
        run(box().arun(["no-such-command"]))


def test_aspawn_talks_over_streams() -> None:
    async def main() -> tuple[bytes, bytes, int]:
        async with await box().aspawn(["cat"], stdin=PIPE, stdout=PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is None
            process.stdin.write(b"one\n")
            first = await process.stdout.readline()
            process.stdin.write(b"two\n")
            await process.stdin.drain()
            process.stdin.close()
            rest = await process.stdout.read()
            return first, rest, (await process.wait()).exit_code

    assert run(main()) == (b"one\n", b"two\n", 0)


def test_wait_has_a_bound_and_leaving_the_block_kills() -> None:
    async def main() -> str:
        async with await box().aspawn(["sleep", "60"]) as process:
            with pytest.raises(TimeoutError):
                await process.wait(0.1)
            waiting = asyncio.ensure_future(process.wait())
        return (await waiting).reason

    assert run(main()) == "KILLED"


def test_nothing_is_left_of_many() -> None:
    async def main() -> None:
        await asyncio.gather(*[box().arun(["true"]) for _ in range(5)])
        fds = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            assert (await box().arun(["true"], input=b"x")).success
        for _ in range(1000):  # what ended is let go by the loop a moment later, before the first count as well
            if len(os.listdir("/proc/self/fd")) <= fds:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(os.listdir("/proc/self/fd"))

    run(main())


@pytest.mark.parametrize("ended", [True, False])
def test_output_that_ended_before_the_loop_looked_is_whole(*, ended: bool) -> None:
    async def main() -> bytes:
        read, write = os.pipe()
        output = Output(read, None)
        os.write(write, b"last words")
        if ended:
            os.close(write)
        output.finish()
        output.finish()
        if not ended:
            os.close(write)
        return output.content()

    assert run(main()) == b"last words"
