"""A caller's plain functions: the thread that runs one takes the next call itself, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from supervision import PYTHON, Outcome, Table, supervise, table

from sandlock_notif import Action, Errno, InjectFd, Request, Supervisor, Trap, Value
from sandlock_notif.handlers.user import HandlerCtx, NotifAction, UserTable
from sandlock_notif.lending import Lent
from sandlock_policy.seccomp.options import FilterOptions
from sandlock_sys.spawn import Spawned

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]

MANY = 300
ASKS = f"""
import os
for number in range({MANY}): assert os.getpriority(os.PRIO_PROCESS, number) == 20 - number % 40, number
print("done")
"""
# Four processes, each with calls of three kinds: a plain function's, the loop's, and one that is refused.
MIXED = """
import os
for _ in range(4):
    if os.fork() == 0:
        for number in range(40):
            assert os.getpriority(os.PRIO_PROCESS, number) == 20 - number % 40
            assert os.getsid(number) == 7000 + number
            try: os.getpgid(number)
            except OSError as error: assert error.errno == 18, error
            else: assert 0
        os._exit(5)
print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(4)])
"""


class Asked(Lent):
    """A function of this test's, as `UserTable` has one; it is told the thread and the request."""

    timeout_s = 5.0

    def __init__(self, function: Callable[[Request], object]) -> None:
        self.function = function
        self.threads: list[str] = []
        self.disposed: list[object] = []

    def ask(self, request: Request) -> object:
        self.threads.append(threading.current_thread().name)
        return self.function(request)

    def conclude(self, request: Request, given: object) -> object:
        return Errno(errno.EIO, f"{given!r}") if isinstance(given, Exception) else given

    def dispose(self, given: object) -> None:
        self.disposed.append(given)

    def table(self, call: str) -> Table:
        async def handle(request: Request) -> Action | None:
            outcome = self.conclude(request, await asyncio.to_thread(self.ask, request))
            assert outcome is None or isinstance(outcome, (Value, Errno))
            return outcome

        return Table((Trap(call, handle, "a test asks", (), "task", lent=self),))


def nice(request: Request) -> Action:
    return Value(request.int_arg(1) % 40)  # the call returns 20 - nice, and getpriority(2) takes that from 20


def python(text: str) -> list[str]:
    return [PYTHON, "-I", "-S", "-c", text]


def served(outcome: Outcome) -> Supervisor:
    assert outcome.supervisor is not None
    return outcome.supervisor


def test_many_calls_are_served_by_few_threads_and_counted_once() -> None:
    asked = Asked(nice)
    outcome = supervise(python(ASKS), asked.table("getpriority"))
    assert outcome.output == b"done\n"
    assert served(outcome).answered() == {"getpriority": MANY}
    assert served(outcome).served == MANY
    lending = served(outcome)._lending
    assert lending is not None
    assert lending.served > MANY // 2, "most were taken by the thread that answered the one before"
    assert len(asked.threads) == MANY


def test_calls_of_others_go_back_to_the_loop_with_the_listener() -> None:
    """The control: the same through the loop alone, where the function is not lent."""
    for lent in (True, False):
        asked = Asked(nice)
        here: list[str] = []
        first = asked.table("getpriority") if lent else table("getpriority", nice)

        def loops(request: Request, here: list[str] = here) -> Action:
            here.append(threading.current_thread().name)
            return Value(7000 + request.int_arg(0))

        refusing = table("getpgid", lambda _: Errno(errno.EXDEV))
        outcome = supervise(python(MIXED), first, table("getsid", loops), refusing)
        assert outcome.output == b"[5, 5, 5, 5]\n"
        assert served(outcome).answered() == {"getpriority": 160, "getsid": 160, "getpgid": 160}
        assert served(outcome).served == 480
        assert set(here) == {"MainThread"}


def test_a_function_that_waits_holds_nobody_else_up() -> None:
    waiting, go = threading.Event(), threading.Event()

    def function(request: Request) -> Action:
        if request.int_arg(1) == 39:
            waiting.set()
            assert go.wait(20)
        return nice(request)

    def other(_: Request) -> Action:
        assert waiting.wait(0), "the function is under way"
        go.set()
        return Value(1)

    asked = Asked(function)
    text = """
import os, time
reader, writer = os.pipe()
if os.fork() == 0:
    for number in range(20): os.getpriority(0, number)
    os.write(writer, b"x")
    assert os.getpriority(0, 39) == -19
    os._exit(5)
os.read(reader, 1)
time.sleep(0.1)
assert os.getpriority(0, 7) == 13
print(os.getsid(0), os.waitstatus_to_exitcode(os.wait()[1]))
"""
    outcome = supervise(python(text), asked.table("getpriority"), table("getsid", other))
    assert outcome.output == b"1 5\n"


def test_others_are_answered_as_ever_while_a_function_that_a_thread_came_to_itself_takes_long() -> None:
    """The thread that is held up took the call in a step of its own, and has not come back from it."""
    inside, go = threading.Event(), threading.Event()

    def function(request: Request) -> Action:
        if request.int_arg(1) == 39:
            inside.set()
            assert go.wait(20)
        if request.int_arg(1) == 38:
            go.set()
        return nice(request)

    text = """
import os, time
if os.fork() == 0:
    for number in (1, 2, 3, 39): assert os.getpriority(0, number) == 20 - number
    os._exit(5)
time.sleep(1.2)  # more than nothing is lent for after a slow one
for number in range(30): assert os.getpriority(0, number) == 20 - number
os.getpriority(0, 38)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    outcome = supervise(python(text), Asked(function).table("getpriority"))
    assert inside.is_set()
    assert not [event for event in outcome.events if event.kind == "fault"], outcome.events
    assert outcome.output == b"5\n"


def test_one_that_is_late_is_refused_and_what_it_returns_is_disposed_of() -> None:
    go, late = threading.Event(), Value(11)

    def function(_: Request) -> Action:
        assert go.wait(20)
        return late

    asked = Asked(function)
    asked.timeout_s = 0.1
    slow = asked.table("getpriority")

    async def handle(request: Request) -> Action | None:
        raise AssertionError("it is lent")

    slow.rows = (Trap("getpriority", handle, "a test asks", (), "task", lent=asked),)
    text = "import os\ntry: os.getpriority(0, 0)\nexcept OSError as error: print(error.errno)"
    outcome = supervise(python(text), slow)
    assert outcome.output == b"%d\n" % errno.EIO
    assert not asked.disposed
    go.set()
    until = time.monotonic() + 20
    while not asked.disposed and time.monotonic() < until:
        time.sleep(0.01)
    assert asked.disposed == [late]


@pytest.mark.parametrize("raised", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), StopIteration()])
def test_what_a_function_raises_denies_its_call_and_no_other(raised: BaseException) -> None:
    def function(request: Request) -> Action:
        if request.int_arg(1) == 13:
            raise raised
        return nice(request)

    text = """
import os
for number in range(30):
    try: found = os.getpriority(0, number)
    except OSError as error: found = error.errno
    assert found == (5 if number == 13 else 20 - number), (number, found)
print("done")
"""
    outcome = supervise(python(text), Asked(function).table("getpriority"))
    assert outcome.output == b"done\n"
    denied = [event for event in outcome.events if event.kind == "denied"]
    assert [(event.syscall, event.errno) for event in denied] == [("getpriority", errno.EIO)]


@pytest.mark.parametrize("when", ["asked", "before the answer"])
def test_a_task_killed_meanwhile_keeps_nobody_waiting(when: str) -> None:
    """The answer to its id reaches nobody, and the thread goes on with the next call."""

    def function(request: Request) -> Action:
        if request.int_arg(1) == 39:
            os.kill(request.tid, signal.SIGKILL)
            until = time.monotonic() + 20
            while when != "asked" and request.waits() and time.monotonic() < until:
                time.sleep(0.001)
        return nice(request)

    text = """
import os
for number in range(20):
    if os.fork() == 0: os.getpriority(0, 39)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -9
    assert os.getpriority(0, number) == 20 - number
print("done")
"""
    assert supervise(python(text), Asked(function).table("getpriority")).output == b"done\n"


def test_what_a_slow_function_returns_for_a_task_that_was_killed_meanwhile_is_disposed_of() -> None:
    given: list[Action] = []

    def function(request: Request) -> Action:
        if request.int_arg(1) != 39:
            return nice(request)
        os.kill(request.tid, signal.SIGKILL)
        until = time.monotonic() + 20
        while request.waits() and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.1)  # the loop takes the listener back meanwhile
        given.append(Value(7))
        return given[-1]

    text = """
import os
for number in range(3):
    if os.fork() == 0: os.getpriority(0, 39)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -9
    assert os.getpriority(0, number) == 20 - number
    import time; time.sleep(0.6)  # until it is lent again
print("done")
"""
    asked = Asked(function)
    assert supervise(python(text), asked.table("getpriority")).output == b"done\n"
    assert asked.disposed == given != []


def test_an_fd_that_comes_back_while_the_supervisor_closes_is_not_kept() -> None:
    concluding, go = threading.Event(), threading.Event()
    given = os.memfd_create("given")

    class Giving(Asked):
        def conclude(self, request: Request, given: object) -> object:
            concluding.set()
            assert go.wait(20)
            return given

    async def closing(supervisor: Supervisor, spawned: Spawned) -> None:
        assert await asyncio.to_thread(concluding.wait, 20)
        ending = asyncio.ensure_future(supervisor.close())
        await asyncio.sleep(0)
        go.set()
        await asyncio.wait_for(ending, 20)

    text = "import os\ntry: os.getpriority(0, 1)\nexcept OSError: pass"
    asked = Giving(lambda _: InjectFd(given))

    async def handle(request: Request) -> Action | None:
        raise AssertionError("it is lent")

    rows = Table((Trap("getpriority", handle, "a test asks", (), "task", lent=asked),))
    supervise(python(text), rows, while_running=closing)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given)


@pytest.mark.parametrize("held", [True, False], ids=["in a function", "between two calls"])
def test_closing_takes_the_listener_back_and_denies(held: bool) -> None:
    inside, go = threading.Event(), threading.Event()

    def function(request: Request) -> Action:
        inside.set()
        assert not held or go.wait(20)
        return nice(request)

    async def closing(supervisor: Supervisor, spawned: Spawned) -> None:
        assert await asyncio.to_thread(inside.wait, 20)
        before = time.monotonic()
        await asyncio.wait_for(supervisor.close(), 20)
        assert time.monotonic() - before < 10
        assert supervisor.listener.fileno() == -1
        go.set()

    text = """
import os
try:
    while True: os.getpriority(0, 1)
except OSError as error: print(error.errno)
"""
    outcome = supervise(python(text), Asked(function).table("getpriority"), while_running=closing)
    assert outcome.output.strip() in (b"%d" % errno.ENOSYS, b"%d" % errno.EPERM)


def test_without_a_thread_the_loop_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandlock_notif.runner import Runner

    def none(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Runner, "start", none)
    asked = Asked(nice)
    outcome = supervise(python(ASKS), asked.table("getpriority"))
    assert outcome.output == b"done\n"
    assert served(outcome).answered() == {"getpriority": MANY}


def handled(function: Callable[[HandlerCtx], Any]) -> Sequence[Table | UserTable]:
    return [UserTable([("getpriority", function)], FilterOptions())]


def test_a_handler_may_answer_in_every_way_when_it_has_the_listener() -> None:
    """Plain values are answered by the thread; fds, coroutines and held calls go through the loop."""
    kept: list[HandlerCtx] = []

    async def later(number: int) -> NotifAction:
        await asyncio.sleep(0.001)
        return NotifAction.returns(number)

    def function(ctx: HandlerCtx) -> Any:
        number = ctx.args[1]
        if number % 5 == 1:
            return NotifAction.inject_bytes(b"text")
        if number % 5 == 2:
            return later(number)
        if number % 5 == 3:
            kept.append(ctx)
            threading.Timer(0.01, lambda: ctx.release(NotifAction.returns(number))).start()
            return NotifAction.hold()
        return NotifAction.errno(errno.EXDEV) if number % 5 == 4 else NotifAction.returns(number)

    text = """
import ctypes, os
call = ctypes.CDLL(None, use_errno=True).syscall
number = {"x86_64": 140}.get(os.uname().machine, 141)
for n in range(50):
    found = call(number, 0, n)
    if n % 5 == 1:
        assert os.pread(found, 10, 0) == b"text"
        os.close(found)
    elif n % 5 == 4:
        assert (found, ctypes.get_errno()) == (-1, 18)
    else:
        assert found == n, (found, n)
print("done")
"""
    outcome = supervise([PYTHON, "-I", "-c", text], *handled(function))
    assert outcome.output == b"done\n", outcome
    assert len(kept) == 10
