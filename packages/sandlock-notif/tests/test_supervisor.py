"""What a handler decides is what the child's call returns; whatever goes wrong denies."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from collections.abc import Callable, Generator

import pytest
from supervision import PYTHON, Table, supervise, table

from sandlock_notif import (
    CONTINUE,
    Action,
    Errno,
    Hold,
    InjectFd,
    Kill,
    Refusal,
    Request,
    Trap,
    Value,
    VanishedError,
)
from sandlock_notif.memory import read_path
from sandlock_policy.seccomp.opcodes import RET_USER_NOTIF
from sandlock_policy.seccomp.rules import Rule, one_of

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]

GETPPID = "import os; print(os.getppid())"
FAULTY: list[Callable[[Request], object]] = [
    lambda _: 1 // 0,
    lambda _: "nonsense",
    lambda _: (_ for _ in ()).throw(VanishedError),
]
OPEN = """
import os, errno
try: print(os.read(os.open("/etc/hostname", os.O_RDONLY), 20))
except OSError as e: print(errno.errorcode[e.errno])
"""
UNAME = """
import os, errno
try: print(os.uname().sysname)
except OSError as e: print(errno.errorcode[e.errno])
"""


def python(code: str) -> list[str]:
    return [PYTHON, "-I", "-S", "-c", code]


def test_a_value_is_what_the_call_returns() -> None:
    assert supervise(python(GETPPID), table("getppid", lambda _: Value(4242))).output == b"4242\n"


def test_continue_lets_the_kernel_run_the_call() -> None:
    outcome = supervise(python(UNAME), table("uname", lambda _: CONTINUE))
    assert (outcome.code, outcome.output) == (0, b"Linux\n")
    assert outcome.supervisor is not None
    assert outcome.supervisor.served >= 1


def test_an_errno_fails_the_call_and_its_reason_is_told() -> None:
    outcome = supervise(python(UNAME), table("uname", lambda _: Errno(errno.EACCES, "not for you")))
    assert outcome.output == b"EACCES\n"
    [event] = outcome.events
    assert (event.kind, event.syscall, event.errno, event.reason) == ("denied", "uname", errno.EACCES, "not for you")


@pytest.mark.parametrize("handle", FAULTY, ids=["raises", "nonsense", "vanished"])
def test_a_handler_with_a_bug_denies(handle: Callable[[Request], Action]) -> None:
    assert supervise(python(UNAME), table("uname", handle)).output == b"EPERM\n"


@pytest.mark.parametrize("handle", FAULTY[:2], ids=["raises", "nonsense"])
def test_an_async_handler_with_a_bug_denies(handle: Callable[[Request], Action]) -> None:
    async def late(request: Request) -> Action:
        await asyncio.sleep(0)
        return handle(request)

    outcome = supervise(python(UNAME), table("uname", late))
    assert outcome.output == b"EPERM\n"
    assert [event.kind for event in outcome.events] == ["fault"]


def test_a_refusal_denies_with_its_errno() -> None:
    def refuse(_: Request) -> Action:
        raise Refusal(errno.ENOTTY)

    assert supervise(python(UNAME), table("uname", refuse)).output == b"ENOTTY\n"


def test_an_awaited_answer_arrives_while_others_are_served() -> None:
    async def slow(_: Request) -> Action:
        await asyncio.sleep(0.2)
        return Value(77)

    code = """
import os
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, b"g"); os.getppid(); os.write(writer, b"p"); os._exit(0)
os.read(reader, 1)
for _ in range(3): os.uname()
os.write(writer, b"u")
print(os.read(reader, 1), os.read(reader, 1))
"""
    rows = (Trap("getppid", slow, "slow"), Trap("uname", lambda _: CONTINUE, "fast"))
    assert supervise(python(code), Table(rows)).output == b"b'u' b'p'\n"


def test_slow_answers_leave_the_loop_to_its_other_sandboxes() -> None:
    """A program chooses calls that take long to judge: 64 of them in a row were 3.5 s for everybody else."""
    code = """
import os, threading
threads = [threading.Thread(target=lambda: [os.getppid() for _ in range(8)]) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    asked = in_a_row = longest = 0

    def turned() -> None:
        nonlocal in_a_row
        in_a_row = 0

    def slow(_: Request) -> Action:
        nonlocal asked, in_a_row, longest
        asked, in_a_row = asked + 1, in_a_row + 1
        longest = max(longest, in_a_row)
        asyncio.get_running_loop().call_soon(turned)
        time.sleep(0.01)
        return Value(1)

    assert supervise(python(code), table("getppid", slow)).code == 0
    assert asked == 64
    assert longest <= 2


def test_the_first_table_that_answers_wins_and_none_leaves_the_call_to_the_next() -> None:
    asked: list[str] = []

    def leave(_: Request) -> None:
        asked.append("first")

    async def leave_later(_: Request) -> None:
        asked.append("second")

    tables = [
        table("getppid", leave),
        table("getppid", leave_later),
        table("getppid", lambda _: Value(3)),
        table("getppid", lambda _: Value(4)),
    ]
    assert supervise(python(GETPPID), *tables).output == b"3\n"
    assert asked == ["first", "second"]


def test_an_fd_is_injected_and_its_number_told() -> None:
    numbers: list[int] = []

    def hosts(request: Request) -> Action | None:
        if read_path(request, 1) != b"/etc/hostname":
            return None
        return InjectFd(make(b"injected"), then=numbers.append)

    def make(content: bytes) -> int:
        fd = os.memfd_create("content")
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    before = len(os.listdir("/proc/self/fd"))
    assert supervise(python(OPEN), table("openat", hosts)).output == b"b'injected'\n"
    assert numbers
    assert numbers[0] >= 3
    assert len(os.listdir("/proc/self/fd")) <= before  # the copy of ours is closed


def test_not_07_an_fd_that_cannot_be_injected_is_an_errno_and_never_the_real_file() -> None:
    def hosts(request: Request) -> Action | None:
        if read_path(request, 1) != b"/etc/hostname":
            return None
        return InjectFd(os.open("/dev/null", os.O_RDONLY))

    code = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n{OPEN}"
    assert supervise(python(code), table("openat", hosts)).output == b"EMFILE\n"


def test_an_fd_at_a_number_the_child_may_not_have_is_an_errno() -> None:
    def at_number(request: Request) -> Action | None:
        if read_path(request, 1) != b"/etc/hostname":
            return None
        return InjectFd(os.open("/dev/null", os.O_RDONLY), target=1 << 20)

    code = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n{OPEN}"
    assert supervise(python(code), table("openat", at_number)).output == b"EBADF\n"


def test_a_held_call_waits_for_its_release() -> None:
    released: list[bool] = []

    def hold(_: Request) -> Action:
        def register(release: Callable[[Action], None]) -> None:
            def late() -> None:
                released.append(True)
                release(Value(9))
                release(Value(10))  # only the first counts

            asyncio.get_running_loop().call_later(0.1, late)

        return Hold(register)

    assert supervise(python(GETPPID), table("getppid", hold)).output == b"9\n"
    assert released == [True]


def test_kill_ends_the_caller() -> None:
    outcome = supervise(python(GETPPID), table("getppid", lambda _: Kill(reason="enough")))
    assert outcome.code == -9
    assert [event.reason for event in outcome.events] == ["enough"]


def test_a_call_that_nobody_handles_is_refused() -> None:
    outcome = supervise(python(UNAME), rules=[Rule("uname", (), RET_USER_NOTIF, "an orphan")])
    assert outcome.output == b"ENOSYS\n"


def test_conditions_of_one_trap_do_not_call_another() -> None:
    asked: list[int] = []

    def first(request: Request) -> Action:
        asked.append(request.int_arg(0))
        return Value(1)

    code = "import os; print(os.sched_get_priority_max(0), os.sched_get_priority_max(1))"
    call = "sched_get_priority_max"
    tables = [table(call, first, one_of(0, 0)), table(call, lambda _: Value(2), one_of(0, 1))]
    assert supervise(python(code), *tables).output == b"1 2\n"
    assert asked == [0]


def test_an_awaitable_that_is_dropped_before_it_was_awaited_is_closed() -> None:
    closed: list[str] = []

    class Holding:
        def __await__(self) -> Generator[object, object, Action]:
            yield from asyncio.sleep(0.01).__await__()
            closed.append("awaited")
            return Value(1)

        def close(self) -> None:
            closed.append("dropped")

    def gone(request: Request) -> Holding:
        os.kill(request.tid, signal.SIGKILL)
        while request.waits():
            time.sleep(0.001)
        return Holding()

    assert supervise(python(GETPPID), table("getppid", gone)).code == -9
    assert closed == ["dropped"]
