"""What a caller's function does to the loop that asks it: nothing, whatever it raises or returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator

import pytest
from supervision import supervise

from sandlock_notif.context import PolicyContext
from sandlock_notif.handlers.callback import CallbackTable, decide_verdict
from sandlock_notif.runner import Runner
from sandlock_notif.syscall_event import SyscallEvent


class MuteError(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)


class Base(BaseException):
    pass


class Odd:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise SystemExit(3)

    def __repr__(self) -> str:
        raise SystemExit(4)


class Awaited:
    def __await__(self) -> Generator[None, None, None]:
        raise SystemExit(5)


RAISED = [
    SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), StopIteration(),
    StopAsyncIteration(), MuteError(), Base("x"),
]  # fmt: skip


def raising(error: BaseException) -> Callable[..., object]:
    def function(*_: object) -> object:
        raise error

    return function


def raising_late(error: BaseException) -> Callable[..., object]:
    async def function(*_: object) -> object:
        await asyncio.sleep(0)
        raise error

    return function


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("make", [raising, raising_late])
def test_not_20_whatever_a_function_raises_is_an_error_that_can_be_told(
    error: BaseException, make: Callable[[BaseException], Callable[..., object]]
) -> None:
    async def ask() -> None:
        runner = Runner()
        try:
            for _ in range(2):  # neither loop nor thread is gone after the first one
                with pytest.raises(
                    Exception, match=None if isinstance(error, StopAsyncIteration) else type(error).__name__
                ):
                    await runner.run(make(error), timeout_s=20)

            async def fine() -> int:
                return 7

            assert await runner.run(fine, timeout_s=20) == 7
        finally:
            runner.close()

    asyncio.run(ask())


@pytest.mark.needs("seccomp", level=2)
@pytest.mark.usefixtures("leaks")
@pytest.mark.parametrize(
    "function",
    [raising(SystemExit(1)), raising_late(KeyboardInterrupt()), raising_late(GeneratorExit()), raising(MuteError()),
     lambda *_: Odd(), lambda *_: Awaited()],
)  # fmt: skip
def test_not_20_a_callback_that_ends_itself_denies_and_the_next_call_is_answered(
    function: Callable[..., object],
) -> None:
    def policy(event: SyscallEvent, context: PolicyContext) -> object:
        return function(event, context) if event.syscall == "bind" else None

    code = """
import socket
for _ in range(2):
    try: socket.socket(socket.AF_UNIX).bind("")
    except OSError as error: print(error.errno)
print(len(open("/proc/self/comm").read()) > 0)
"""
    outcome = supervise(["/usr/bin/python3", "-c", code], CallbackTable(policy, 20.0))
    assert outcome.output == b"1\n1\nTrue\n"
    assert [event.kind for event in outcome.events].count("fault") == 2


def test_what_looks_like_a_verdict_and_is_none_is_refused() -> None:
    for answer in (Odd(), Awaited(), 1.0, float("nan"), "deny", 4096, -3, b"audit"):
        with pytest.raises(ValueError, match="is no verdict"):
            decide_verdict(answer)
    assert [decide_verdict(one) for one in (None, False, 0, True, -1, 13, "audit", -2)] == [
        (0, False), (0, False), (0, False), (1, False), (1, False), (13, False), (0, True), (0, True),
    ]  # fmt: skip
