"""The deputy acts inside the domain while the process stays free, and answers notifications with what it got."""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from launch_lab import (
    SCOPE_SIGNAL,
    alive_with,
    fields_of,
    has_ended,
    launched,
    new_mark,
    new_request,
    output_of,
    wait_until,
)

from sandlock_sys import landlock, notif, pidfd
from sandlock_sys.constants.seccomp import Action, FilterFlag
from sandlock_sys.deputy import BUFFER_BYTES, SLOTS, Answer, Completion, Deputy, RingFullError, Ticket
from sandlock_sys.errors import SyscallError
from sandlock_sys.spawn import SpawnError

if TYPE_CHECKING:
    from sandlock_testkit.outsider import Outsider
    from sandlock_testkit.tree import Tree

pytestmark = pytest.mark.usefixtures("leaks")

X86 = os.uname().machine == "x86_64"
OPENAT, READ, KILL, GETTID, GETPPID, UMASK, CHDIR, GETRANDOM, CLOSE, PPOLL, MKDIRAT, GETCWD = (
    (257, 0, 62, 186, 110, 95, 80, 318, 3, 271, 258, 79)
    if X86
    else (56, 63, 129, 178, 173, 166, 49, 278, 57, 73, 34, 17)
)
AT_FDCWD = -100
READ_FILE, READ_DIR = 1 << 2, 1 << 3


@pytest.fixture
def deputy() -> Iterator[Deputy]:
    """A started deputy, free of any domain."""
    with Deputy() as made:
        yield made


@contextmanager
def ruleset(*readable: Path | str, scoped: int = 0) -> Iterator[int]:
    """A ruleset that lets read below `readable` only."""
    fd = landlock.create_ruleset(READ_FILE | READ_DIR if readable else 0, 0, scoped)
    try:
        landlock.add_paths(fd, [(os.fsencode(path), READ_FILE | READ_DIR | landlock.OPTIONAL) for path in readable])
        yield fd
    finally:
        os.close(fd)


def call(deputy: Deputy, number: int, *arguments: int | bytes | bytearray) -> Completion:
    return deputy.wait(deputy.submit(number, *arguments), 10)


def opened(deputy: Deputy, path: Path | str) -> int:
    """0 if the deputy can open `path` for reading, else the errno."""
    result = call(deputy, OPENAT, AT_FDCWD, os.fsencode(path), os.O_RDONLY | os.O_CLOEXEC).result
    if result >= 0:
        os.close(result)
    return max(-result, 0)


def test_a_call_returns_its_value_its_errno_and_its_buffers(deputy: Deputy, tmp_path: Path) -> None:
    assert call(deputy, GETTID) == Completion(deputy.thread_id, 0, ())
    assert deputy.thread_id != threading.get_native_id()
    missing = bytes(tmp_path / "missing")
    assert call(deputy, OPENAT, AT_FDCWD, missing, os.O_RDONLY) == Completion(-errno.ENOENT, 0, (missing,))
    room = bytearray(16)
    done = call(deputy, GETRANDOM, room, 16, 0)
    assert done.result == 16
    assert done.buffers[0] != bytes(room) == bytes(16), (
        "what the kernel wrote is in the completion, not in the argument"
    )
    with pytest.raises(SyscallError, match="openat: No such file"):
        call(deputy, OPENAT, AT_FDCWD, missing, os.O_RDONLY).check("openat")


def test_several_buffers_are_apart_and_strings_are_ended(deputy: Deputy, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("content")
    directory = os.open(tmp_path, os.O_PATH)
    # Garbage of a longer name, left in the same slot, must not lengthen the next one.
    for _ in range(SLOTS + 1):
        call(deputy, MKDIRAT, directory, b"text" * 50, 0o700)
        (tmp_path / ("text" * 50)).rmdir()
    fd = call(deputy, OPENAT, directory, b"text", os.O_RDONLY | os.O_CLOEXEC).check("openat")
    assert call(deputy, READ, fd, bytearray(100), 100).buffers[0].rstrip(b"\0") == b"content"
    os.close(directory)
    os.close(fd)


@pytest.mark.needs("landlock")
def test_only_the_deputy_is_confined(deputy: Deputy, tree: Tree) -> None:
    secret = tree.canary.path
    assert opened(deputy, secret) == 0
    with ruleset(tree.read) as fd:
        deputy.restrict_self(fd)
    assert opened(deputy, secret) == errno.EACCES
    assert opened(deputy, tree.read / "data.txt") == 0
    assert tree.canary.secret in secret.read_text()
    found: list[str] = []
    other = threading.Thread(target=lambda: found.append(secret.read_text()))
    other.start()
    other.join()
    assert tree.canary.secret in found[0]
    with Deputy() as second:
        assert opened(second, secret) == 0, "a deputy that is started later is free"
    ours, its = (
        fields_of(Path(f"/proc/self/task/{tid}/status").read_bytes())["NoNewPrivs"]
        for tid in (threading.get_native_id(), deputy.thread_id)
    )
    assert (ours, its) == ("0", "1")


@pytest.mark.needs("landlock")
def test_a_bad_ruleset_is_told(deputy: Deputy) -> None:
    with pytest.raises(SyscallError) as caught:
        deputy.restrict_self(900)
    assert (caught.value.call, caught.value.errno) == ("landlock_restrict_self", errno.EBADF)


def test_folder_and_umask_are_the_deputys_own(deputy: Deputy, tmp_path: Path) -> None:
    assert deputy.own_folder
    before = os.getcwd()
    assert call(deputy, CHDIR, bytes(tmp_path)).result == 0
    call(deputy, UMASK, 0o777)
    assert call(deputy, GETCWD, bytearray(4096), 4096).buffers[0].split(b"\0")[0] == bytes(tmp_path.resolve())
    assert os.getcwd() == before
    (tmp_path / "ours").touch()
    assert (tmp_path / "ours").stat().st_mode & 0o400
    assert call(deputy, MKDIRAT, AT_FDCWD, b"its", 0o777).result == 0
    assert (tmp_path / "its").stat().st_mode & 0o777 == 0


def test_the_eventfd_tells_of_completions(deputy: Deputy) -> None:
    assert not select.select([deputy], [], [], 0)[0]
    tickets = [deputy.submit(GETTID) for _ in range(10)]
    found: dict[Ticket, Completion] = {}
    while len(found) < 10:
        assert select.select([deputy], [], [], 5)[0]
        found.update(deputy.collect())
    assert set(found) == set(tickets)
    assert {done.result for done in found.values()} == {deputy.thread_id}
    assert deputy.collect() == []
    with pytest.raises(ValueError, match="collected already"):
        deputy.wait(tickets[0])


def test_calls_are_made_in_the_order_of_submission(deputy: Deputy, tmp_path: Path) -> None:
    """So restrict_self as the first submission holds for all that follow, without a wait in between."""
    for turn in range(30):
        folder = tmp_path / str(turn)
        deeper = [folder.joinpath(*["x"] * depth) for depth in range(30)]
        tickets = [deputy.submit(MKDIRAT, AT_FDCWD, bytes(path), 0o700) for path in deeper]
        assert {deputy.wait(ticket).result for ticket in reversed(tickets)} == {0}


def test_slots_are_used_again(deputy: Deputy) -> None:
    for number in range(10_000):
        text = b"%d" % number
        done = deputy.wait(deputy.submit(OPENAT, -1, text, 0))
        assert (done.result, done.buffers) == (-errno.EBADF, (text,))


def test_a_full_ring_is_told_and_recovers(deputy: Deputy) -> None:
    tickets = [deputy.submit(GETTID) for _ in range(SLOTS)]
    with pytest.raises(RingFullError) as caught:
        deputy.submit(GETTID)
    assert caught.value.errno == errno.EAGAIN
    assert deputy.wait(tickets[0]).result == deputy.thread_id
    tickets[0] = deputy.submit(GETTID)
    assert [deputy.wait(ticket).result for ticket in tickets] == [deputy.thread_id] * SLOTS


def test_many_threads_submit_at_once(deputy: Deputy) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(300):
            text = b"%d-%d" % (number, turn)
            done = deputy.wait(deputy.submit(OPENAT, -1, text, 0))
            if done.buffers != (text,):
                wrong.append(done)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def sleep_in(deputy: Deputy, milliseconds: int) -> Ticket:
    return deputy.submit(PPOLL, 0, 0, struct.pack("=qq", 0, milliseconds * 1_000_000), 0)


def test_a_wait_can_be_bounded_and_taken_up_again(deputy: Deputy) -> None:
    ticket = sleep_in(deputy, 200)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        deputy.wait(ticket, 0.02)
    assert time.monotonic() - started < 0.15
    assert deputy.wait(ticket, 5).result == 0


def test_handlers_run_while_somebody_waits(deputy: Deputy) -> None:
    got: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: got.append(time.monotonic()))
    try:
        ticket = sleep_in(deputy, 300)
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert deputy.wait(ticket).result == 0
    finally:
        signal.signal(signal.SIGALRM, before)
    assert 0.03 < got[0] - started < 0.25


def test_the_host_s_signals_never_reach_the_deputy(deputy: Deputy) -> None:
    blocked = int(fields_of(Path(f"/proc/self/task/{deputy.thread_id}/status").read_bytes())["SigBlk"], 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1):
        assert blocked >> (number - 1) & 1


def test_closing_cancels_what_was_not_begun() -> None:
    deputy = Deputy()
    deputy.start()
    first, second = sleep_in(deputy, 200), deputy.submit(GETTID)
    found: dict[str, object] = {}

    def wait(name: str, ticket: Ticket) -> None:
        found[name] = deputy.wait(ticket).result

    waiters = [threading.Thread(target=wait, args=pair) for pair in (("first", first), ("second", second))]
    for waiter in waiters:
        waiter.start()
    assert wait_until(lambda: len(deputy._inside) == 2)
    deputy.close()
    for waiter in waiters:
        waiter.join()
    assert found == {"first": 0, "second": -errno.ECANCELED}


def test_a_closed_deputy_refuses_everything() -> None:
    deputy = Deputy()
    deputy.close()
    deputy.start()
    with pytest.raises(ValueError, match="runs already"):
        deputy.start()
    ticket = deputy.submit(GETTID)
    deputy.close()
    deputy.close()
    for refused in (lambda: deputy.submit(GETTID), lambda: deputy.wait(ticket), deputy.collect, deputy.fileno):
        with pytest.raises(ValueError, match="does not run"):
            refused()
    deputy.start()
    assert call(deputy, GETTID).result == deputy.thread_id
    deputy.close()


@pytest.mark.parametrize(
    ("number", "arguments", "words"),
    [
        (0x7FFFFFFF, (1 << 40,), "no system call number"),  # what the ring means by a spawn
        (-1, (), "no system call number"),
        (GETTID, (1, 2, 3, 4, 5, 6, 7), "at most 6"),
        (OPENAT, (AT_FDCWD, bytes(BUFFER_BYTES), 0), "bytes"),
    ],
)
def test_a_submission_that_cannot_be_meant_is_refused(
    deputy: Deputy, number: int, arguments: tuple[int | bytes, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        deputy.submit(number, *arguments)
    assert call(deputy, GETTID).result == deputy.thread_id


def test_an_answer_needs_a_listener(deputy: Deputy) -> None:
    assert deputy.listener == -1
    with pytest.raises(ValueError, match="listener"):
        deputy.submit(GETTID, answer=Answer.VALUE, notification=1)


# Calls getppid, which is trapped, and tells what came back: value or -errno, and what an fd of that number is.
ASKER = r"""
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int count, char **words)
{
    long value = syscall(SYS_getppid);
    if (value < 0)
        value = -errno;
    char text[64] = "-";
    long got = count > 1 && value >= 0 ? pread(value, text, 63, 0) : 1;
    text[got > 0 ? got : 0] = 0;
    printf("%ld %d %s\n", value, count > 1 && value >= 0 ? fcntl(value, F_GETFD) : 0, text);
    return 0;
}
"""


def trap(number: int) -> bytes:
    program = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, Action.USER_NOTIF), (6, 0, 0, Action.ALLOW)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


class Asker:
    """A child that waits for the answer to its call."""

    def __init__(self, listener: int, request: notif.Request, out: int, pid: int) -> None:
        self.listener = listener
        self.id = request.id
        self.pid = pid
        self._out = out

    def told(self) -> str:
        return os.read(self._out, 200).decode().strip()


@pytest.fixture
def ask(compile_c: Callable[..., Path]) -> Callable[..., Any]:
    """`with ask(deputy, *arguments, **fields) as asker:` a child whose call was received and waits."""

    @contextmanager
    def start(deputy: Deputy, *arguments: str, **fields: Any) -> Iterator[Asker]:
        fields |= {"filter": trap(GETPPID), "filter_flags": FilterFlag.NEW_LISTENER, "park": True}
        reader, writer = os.pipe()
        with launched([str(compile_c(ASKER)), *arguments], stdio=(0, writer, 2), **fields) as spawned:
            os.close(writer)
            process = pidfd.open_pidfd(spawned.pid)
            listener = pidfd.getfd(process, spawned.listener)
            os.close(process)
            spawned.go()
            deputy.listener = listener
            request = notif.Request()
            assert notif.receive(listener, request) is notif.Received.NOTIFICATION
            try:
                yield Asker(listener, request, reader, spawned.pid)
            finally:
                deputy.listener = -1
                os.close(listener)
                os.close(reader)

    return start


needs_notifications = pytest.mark.needs("seccomp", level=2)


@needs_notifications
def test_a_notification_is_answered_with_the_value(deputy: Deputy, ask: Callable[..., Any]) -> None:
    with ask(deputy) as asker:
        done = deputy.wait(deputy.submit(GETTID, answer=Answer.VALUE, notification=asker.id))
        assert done == Completion(deputy.thread_id, 0, ())
        assert asker.told().split()[0] == str(deputy.thread_id)


@needs_notifications
@pytest.mark.parametrize("answer", [Answer.VALUE, Answer.FD])
def test_a_notification_is_answered_with_the_errno(deputy: Deputy, ask: Callable[..., Any], answer: Answer) -> None:
    with ask(deputy) as asker:
        ticket = deputy.submit(OPENAT, AT_FDCWD, b"/nowhere/x", 0, answer=answer, notification=asker.id)
        done = deputy.wait(ticket)
        assert (done.result, done.answered) == (-errno.ENOENT, 0)
        assert asker.told().split()[0] == str(-errno.ENOENT)


@needs_notifications
@pytest.mark.parametrize("flag", [0, os.O_CLOEXEC])
def test_a_notification_is_answered_with_the_fd(deputy: Deputy, ask: Callable[..., Any], flag: int, tree: Tree) -> None:
    path = bytes(tree.read / "data.txt")
    with ask(deputy, "fd") as asker:
        ticket = deputy.submit(
            OPENAT, AT_FDCWD, path, os.O_RDONLY | os.O_CLOEXEC, answer=Answer.FD, notification=asker.id, fd_flags=flag
        )
        done = deputy.wait(ticket)
        assert done.answered >= 3
        # The number may be somebody else's by now, but it is not that file any more.
        assert not Path(f"/proc/self/fd/{done.result}").exists() or not os.path.samefile(
            f"/proc/self/fd/{done.result}", path
        )
        assert asker.told() == f"{done.answered} {int(bool(flag))} {tree.readable}"


@needs_notifications
def test_not_07_a_child_that_cannot_take_the_fd_gets_the_errno(
    deputy: Deputy, ask: Callable[..., Any], tree: Tree
) -> None:
    with ask(deputy, "fd", limits=[(7, 4, 4)], keep=[]) as asker:
        # One place is left: 3. The second injection finds none, so make the table full first.
        assert notif.add_fd(asker.listener, asker.id, 0) == 3
        ticket = deputy.submit(
            OPENAT, AT_FDCWD, bytes(tree.read / "data.txt"), os.O_RDONLY, answer=Answer.FD, notification=asker.id
        )
        done = deputy.wait(ticket)
        assert (done.result >= 0, done.answered) == (True, -errno.EMFILE)
        assert asker.told().split()[0] == str(-errno.EMFILE), "an errno, never the unmediated call"


@needs_notifications
@pytest.mark.parametrize("answer", [Answer.VALUE, Answer.FD])
def test_a_notification_of_a_dead_child_is_seen_as_such(
    deputy: Deputy, ask: Callable[..., Any], answer: Answer, tree: Tree
) -> None:
    with ask(deputy) as asker:
        os.kill(asker.pid, signal.SIGKILL)
        assert wait_until(lambda: not notif.id_valid(asker.listener, asker.id))
        path = bytes(tree.read / "data.txt")
        done = deputy.wait(deputy.submit(OPENAT, AT_FDCWD, path, 0, answer=answer, notification=asker.id))
        assert done.answered == -errno.ENOENT
        if answer is Answer.VALUE:
            os.close(done.result)


@needs_notifications
@pytest.mark.needs("landlock")
def test_what_is_opened_for_a_child_is_opened_in_the_domain(
    deputy: Deputy, ask: Callable[..., Any], tree: Tree
) -> None:
    with ruleset(tree.read) as fd:
        deputy.restrict_self(fd)
    for path, expected in ((tree.canary.path, str(-errno.EACCES)), (tree.read / "data.txt", "3")):
        with ask(deputy, "fd") as asker:
            ticket = deputy.submit(OPENAT, AT_FDCWD, bytes(path), os.O_RDONLY, answer=Answer.FD, notification=asker.id)
            deputy.wait(ticket)
            told = asker.told()
            assert told.split()[0] == expected
            assert tree.canary.secret not in told


@pytest.mark.needs("landlock")
def test_a_child_is_cloned_by_the_deputy_and_so_in_its_domain(deputy: Deputy, tree: Tree) -> None:
    script = f"cat {tree.canary.path} 2>/dev/null || echo refused; cat {tree.read}/data.txt"
    system = ("/usr", "/lib", "/lib64", "/bin", "/etc")
    assert tree.canary.secret.encode() in output_of(["sh", "-c", script], by=deputy.spawn)
    with ruleset(tree.read, *system) as fd:
        deputy.restrict_self(fd)
    assert output_of(["sh", "-c", script], by=deputy.spawn) == f"refused\n{tree.readable}".encode()
    assert tree.canary.secret.encode() in output_of(["sh", "-c", script]), "a launch of the host's own is not in it"


def test_a_launch_that_fails_in_the_deputy_is_told_like_any_other(deputy: Deputy) -> None:
    with pytest.raises(SpawnError) as caught, launched(["/nowhere/program"], by=deputy.spawn):
        pass
    assert (caught.value.step, caught.value.errno) == ("exec", errno.ENOENT)
    assert call(deputy, GETTID).result == deputy.thread_id


def test_a_child_outlives_the_deputy_that_launched_it() -> None:
    """The thread ends, the process does not: PR_SET_PDEATHSIG would not know the difference."""
    with Deputy() as deputy:
        sleeping = launched(["sleep", "60"], by=deputy.spawn)
        spawned = sleeping.__enter__()
    try:
        assert not has_ended(spawned, 0.1)
    finally:
        spawned.guard.close()


class Interruption(KeyboardInterrupt):
    """As Ctrl-C."""


def test_an_interrupted_launch_through_the_deputy_leaves_nothing() -> None:
    mark = new_mark()
    armed = False

    def interrupt(*_: object) -> None:
        if armed:
            raise Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        with Deputy() as deputy, new_request(["sleep", "600", mark]) as request:
            for turn in range(600):  # until the signals have come at enough moments
                if interrupted == 20:
                    break
                spawned = None
                try:
                    try:
                        armed = True
                        signal.setitimer(signal.ITIMER_REAL, 0.0001 + turn % 40 * 0.00003)
                        spawned = deputy.spawn(request)
                    finally:
                        armed = False
                except Interruption:
                    interrupted += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                if spawned is not None:
                    spawned.guard.close()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted == 20, "the signals came at another time"
    assert alive_with(mark) == []


@pytest.mark.needs("landlock", level=6)
def test_pr_05_kill_everything_reaches_the_sandbox_and_nothing_else(deputy: Deputy, outsider: Outsider) -> None:
    mark = new_mark()
    with ruleset(scoped=SCOPE_SIGNAL) as fd:
        deputy.restrict_self(fd)
    # The proof that must come before: the outside process answers EPERM.
    assert call(deputy, KILL, outsider.pid, 0).result == -errno.EPERM
    script = f"(setsid sleep 600 {mark} &); exec sleep 600 {mark}"
    with launched(["sh", "-c", script], by=deputy.spawn):
        assert wait_until(lambda: len(alive_with(mark)) >= 2)
        assert call(deputy, KILL, -1, signal.SIGKILL).result == 0
        assert wait_until(lambda: alive_with(mark) == [])
    assert outsider.alive()
