"""The caller's callback and handlers, on real sandboxes."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from select import POLLERR, POLLOUT, poll
from typing import Any

import pytest

from sandlock_notif.handlers.observing import Observer
from sandlock_notif.handlers.ready import CallRecord, deny_calls, log_calls
from sandlock_notif.handlers.user import ExceptionPolicy, Handler, HandlerCtx, NotifAction, UserTable
from sandlock_policy import PolicyError
from sandlock_runtime import PIPE, Sandbox
from sandlock_runtime.hooks import Hooks

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("landlock", level=1)]

SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache"]
PYTHON = ["/usr/bin/python3", "-I", "-S", "-c"]
GETPPID = [*PYTHON, "import os; print(os.getppid())"]
UNAME = [*PYTHON, "import os\ntry: print(os.uname().sysname)\nexcept OSError as e: print(e.errno)"]


def output_of(command: list[str], **fields: Any) -> str:
    result = Sandbox(fs_readable=SYSTEM, **fields).run(command, timeout=20)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


def test_a_handler_answers_in_place_of_the_kernel() -> None:
    assert output_of(GETPPID, handlers=[("getppid", lambda _: NotifAction.returns(4242))]) == "4242"


def test_an_async_handler_does_as_well_and_runs_elsewhere() -> None:
    threads = set()

    async def answer(ctx: HandlerCtx) -> NotifAction:
        await asyncio.sleep(0.01)
        threads.add(threading.current_thread().name)
        return NotifAction.returns(ctx.syscall_nr)

    number = int(output_of(GETPPID, handlers=[("getppid", answer)]))
    assert number > 0
    assert "sandlock-supervisor" not in threads


def test_the_first_handler_that_answers_wins_and_continue_leaves_it_to_the_next() -> None:
    asked = []

    def first(_: HandlerCtx) -> NotifAction:
        asked.append(1)
        return NotifAction.continue_()

    handlers = [
        ("getppid", first),
        ("getppid", lambda _: NotifAction.returns(7)),
        ("getppid", lambda _: NotifAction.returns(8)),
    ]
    assert output_of(GETPPID, handlers=handlers) == "7"
    assert asked == [1]


def test_a_refusal_is_a_denial_of_the_result() -> None:
    result = Sandbox(fs_readable=SYSTEM, handlers=[("uname", lambda _: NotifAction.errno(errno.ENOTTY))]).run(UNAME)
    assert result.stdout.strip() == str(errno.ENOTTY).encode()
    assert ("uname", errno.ENOTTY, 1) in [(denial.syscall, denial.errno, denial.count) for denial in result.denials]
    assert result.usage.notifications >= 1


@pytest.mark.parametrize(
    ("policy", "expected"), [(ExceptionPolicy.DENY_EPERM, errno.EPERM), (ExceptionPolicy.DENY_EIO, errno.EIO)]
)
def test_a_handler_that_raises_denies_as_it_says(policy: ExceptionPolicy, expected: int) -> None:
    class Broken(Handler):
        on_exception = policy

        def handle(self, ctx: HandlerCtx) -> NotifAction:
            raise KeyError(ctx.id)

    assert output_of(UNAME, handlers=[("uname", Broken())]) == str(expected)


def test_a_handler_that_raises_may_kill() -> None:
    class Fatal(Handler):
        on_exception = ExceptionPolicy.KILL

        def handle(self, ctx: HandlerCtx) -> NotifAction:
            raise KeyError(ctx.id)

    result = Sandbox(fs_readable=SYSTEM, handlers=[("uname", Fatal())]).run(UNAME)
    assert result.signal == 9


def test_bytes_are_injected_sealed() -> None:
    def hosts(ctx: HandlerCtx) -> NotifAction:
        if ctx.read_path() != b"/etc/hosts":
            return NotifAction.continue_()
        return NotifAction.inject_bytes(b"10.0.0.1 inside\n")

    code = """
import os
fd = os.open("/etc/hosts", os.O_RDWR)
print(os.read(fd, 100))
try: os.write(fd, b"x")
except OSError as e: print(e.errno)
"""
    assert output_of([*PYTHON, code], handlers=[("openat", hosts)]) == f"b'10.0.0.1 inside\\n'\n{errno.EPERM}"


def test_a_handler_reads_and_writes_the_callers_memory() -> None:
    def shout(ctx: HandlerCtx) -> NotifAction:
        assert len(ctx.read(ctx.args[0], 8)) == 8
        ctx.write(ctx.args[0], b"SANDLOCK\0")
        return NotifAction.returns(0)

    assert output_of(UNAME, handlers=[("uname", shout)]) == "SANDLOCK"


def test_a_held_call_waits_until_it_is_released() -> None:
    def hold(ctx: HandlerCtx) -> NotifAction:
        threading.Timer(0.2, ctx.release, [NotifAction.returns(11)]).start()
        return NotifAction.hold()

    started = time.monotonic()
    assert output_of(GETPPID, handlers=[("getppid", hold)]) == "11"
    assert time.monotonic() - started >= 0.2


def test_what_is_held_at_the_end_does_not_keep_the_sandbox() -> None:
    result = Sandbox(fs_readable=SYSTEM, handlers=[("getppid", lambda _: NotifAction.hold())]).run(GETPPID, timeout=0.5)
    assert result.reason == "TIMEOUT"


def test_the_fd_of_an_answer_that_nobody_waits_for_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain handler and an async one that are late, and a release that is late and comes twice."""
    monkeypatch.setattr(UserTable.__init__, "__defaults__", (0.3,))  # seconds for a handler
    asked, go, kept = (
        threading.Event(),
        threading.Event(),
        [],
    )  # of each pipe the end that tells whether the other one is closed

    def pipe() -> NotifAction:
        reader, writer = os.pipe()
        kept.append(writer)
        return NotifAction.inject_fd_send(reader)

    def late(_: HandlerCtx) -> NotifAction:
        go.wait(20)
        return pipe()

    async def late_too(_: HandlerCtx) -> NotifAction:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return pipe()
        raise AssertionError("it was in time")

    def held(ctx: HandlerCtx) -> NotifAction:
        def release() -> None:
            go.wait(20)
            ctx.release(pipe())
            ctx.release(pipe())

        threading.Thread(target=release).start()
        asked.set()
        return NotifAction.hold()

    def closed(writer: int) -> bool:
        watch = poll()
        watch.register(writer, POLLOUT)
        return bool(watch.poll(0)[0][1] & POLLERR)  # nobody reads, here or in the program

    code = """
import os
for call in (os.getsid, lambda _: print(os.getppid(), flush=True), os.getpgid):
    try: call(0)
    except OSError as error: print(error.errno, flush=True)
"""
    box = Sandbox(fs_readable=SYSTEM, handlers=[("getppid", late), ("getsid", late_too), ("getpgid", held)])
    try:
        with box.popen([*PYTHON, code], stdout=PIPE) as process:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == [b"1\n", b"-1\n"]
            assert asked.wait(20)
            process.kill()
            process.wait(20)
            go.set()
            deadline = time.monotonic() + 20
            while (len(kept) < 4 or not all(map(closed, kept))) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert [closed(writer) for writer in kept] == [True] * 4
    finally:
        go.set()
        for writer in kept:
            os.close(writer)


def test_an_answer_with_an_fd_is_for_one_call() -> None:
    """The number may be another file's the second time: that call is refused."""
    reader, writer = os.pipe()
    os.write(writer, b"once")
    os.close(writer)
    once = NotifAction.inject_fd_send(reader)
    code = """
import os
print(os.read(os.eventfd(0), 9))
try: os.eventfd(0)
except OSError as error: print(error.errno)
"""
    assert output_of([*PYTHON, code], handlers=[("eventfd2", lambda _: once)]) == "b'once'\n1"


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (("no_such_call", lambda _: None), "no system call here"),
        (("ptrace", lambda _: None), "denied to every program"),
        (("uname", 3), "neither a Handler nor a function"),
    ],
)
def test_a_handler_that_could_never_be_asked_is_refused(handler: tuple[str, Any], text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        Sandbox(fs_readable=SYSTEM, handlers=[handler]).run(["/bin/true"])


def test_the_callback_hears_of_execs_and_refuses_one() -> None:
    seen: list[tuple[str, ...]] = []

    def decide(event: Any, _: Any) -> object:
        if event.argv is not None:
            seen.append(event.argv)
        return event.argv_contains("forbidden")

    code = """
import subprocess
for word in ("fine", "forbid" "den"):
    try: print(subprocess.run(["/bin/echo", word], capture_output=True).stdout)
    except OSError as e: print(e.errno)
"""
    result = Sandbox(fs_readable=SYSTEM, policy_fn=decide).run([*PYTHON, code])
    assert result.stdout.decode().split("\n")[:2] == ["b'fine\\n'", str(errno.EPERM)]
    assert ("/bin/echo", "forbidden") in seen
    assert any(denial.syscall == "execve" for denial in result.denials)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (None, "Linux"),
        (False, "Linux"),
        (0, "Linux"),
        ("audit", "Linux"),
        (-2, "Linux"),
        (True, "1"),
        (-1, "1"),
        (errno.ENOENT, "2"),
        ("yes", "1"),
        (4096, "1"),
        (1.0, "1"),
    ],
)
def test_not_20_every_verdict_means_what_it_says_and_nonsense_denies(verdict: object, expected: str) -> None:
    code = """
import os
try: os.close(os.open("/usr/bin/env", os.O_RDONLY)); print("Linux")
except OSError as e: print(e.errno)
"""
    armed = threading.Event()

    def decide(event: Any, _: Any) -> object:
        # The interpreter's own opens pass; what follows the marker is judged.
        return verdict if event.category == "file" and armed.is_set() else None

    def marker(_: HandlerCtx) -> NotifAction:
        armed.set()
        return NotifAction.returns(0)

    result = Sandbox(fs_readable=SYSTEM, policy_fn=decide, handlers=[("getppid", marker)]).run(
        [*PYTHON, f"import os; os.getppid()\n{code}"], timeout=20
    )
    assert result.stdout.decode().strip() == expected


def test_not_20_a_callback_that_hangs_denies_after_its_time() -> None:
    release = threading.Event()

    def decide(event: Any, _: Any) -> object:
        if event.syscall == "execve" and event.argv_contains("slow"):
            release.wait(10)
        return None

    code = 'import subprocess\ntry: subprocess.run(["/bin/echo", "sl" "ow"])\nexcept OSError as e: print(e.errno)'
    try:
        result = Sandbox(fs_readable=SYSTEM, policy_fn=decide, policy_timeout_s=0.3).run([*PYTHON, code], timeout=20)
    finally:
        release.set()
    assert result.stdout.strip() == b"1"


def test_many_sandboxes_with_hooks_leave_nothing() -> None:
    box = Sandbox(fs_readable=SYSTEM, handlers=[("getppid", lambda _: NotifAction.returns(1))])
    box.run(GETPPID)
    time.sleep(0.1)
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(20):
        assert box.run(GETPPID).success
    time.sleep(0.2)
    assert len(os.listdir("/proc/self/fd")) <= fds
    assert threading.active_count() <= threads + 1


def test_not_22_a_flood_of_told_calls_is_bounded() -> None:
    heard = []

    def slow(event: Any, _: Any) -> None:
        if event.syscall == "unlink":
            heard.append(event)
            time.sleep(0.01)

    code = """
import os
for _ in range(20000):
    try: os.unlink("/no/such/file")
    except OSError: pass
print("done")
"""
    result = Sandbox(fs_readable=SYSTEM, policy_fn=slow).run([*PYTHON, code], timeout=60)
    assert result.stdout == b"done\n"
    assert heard
    assert any("too slow" in denial.reason for denial in result.denials)


def test_holds_of_dead_tasks_are_forgotten() -> None:
    code = """
import os, signal, time
for _ in range(300):
    pid = os.fork()
    if pid == 0:
        os.getppid()
        os._exit(0)
    time.sleep(0.002)
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
print("done")
"""
    result = Sandbox(fs_readable=SYSTEM, handlers=[("getppid", lambda _: NotifAction.hold())]).run(
        [*PYTHON, code], timeout=60
    )
    assert result.stdout == b"done\n"


def test_calls_are_written_down_and_go_on() -> None:
    seen: list[CallRecord] = []
    assert output_of(UNAME, handlers=log_calls("uname", "openat", to=seen.append)) == "Linux"
    assert {record.syscall for record in seen} == {"uname", "openat"}
    paths = {record.path for record in seen if record.syscall == "openat"}
    assert any(path and path.startswith("/") for path in paths)
    assert all(record.path is None and record.pid > 0 for record in seen if record.syscall == "uname")


def test_a_log_that_fails_refuses() -> None:
    def full(_: CallRecord) -> None:
        raise OSError(28, "the disk is full")

    assert output_of(UNAME, handlers=log_calls("uname", to=full)) == str(errno.EPERM)


def test_calls_are_refused_with_an_errno_and_told() -> None:
    assert output_of(UNAME, handlers=deny_calls("uname", errno=errno.ENOSYS)) == str(errno.ENOSYS)
    result = Sandbox(fs_readable=SYSTEM, handlers=deny_calls("uname")).run(UNAME, timeout=20)
    assert result.stdout == b"%d\n" % errno.EPERM
    assert [denial.syscall for denial in result.denials] == ["uname"]
    with pytest.raises(ValueError, match="errno"):
        deny_calls("uname", errno=0)


def test_one_more_listener_takes_nothing_else_away() -> None:
    def first(_: object) -> None: ...
    def second(_: object) -> None: ...

    hooks = Hooks(lambda _event, _context: None, (("getppid", lambda _: None),), (first,), (Observer(),))
    more = hooks.also_told(second, lambda _kind, _facts: None)
    assert more.audits == (first, second)
    assert (len(hooks.timelines), len(more.timelines)) == (0, 1)
    assert (more.policy_fn, more.handlers, more.observers) == (hooks.policy_fn, hooks.handlers, hooks.observers)
