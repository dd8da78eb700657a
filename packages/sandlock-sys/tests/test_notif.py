"""Notifications round trip: what a supervisor answers is what the child's call returns."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sandlock_sys import notif, pidfd, prctl, seccomp
from sandlock_sys.constants.seccomp import Action, FilterFlag, ListenerFlag, ResponseFlag
from sandlock_sys.errors import SyscallError
from sandlock_sys.probe import probe

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]

Trapped = Callable[..., Any]


@pytest.fixture
def trapped(filter_for: Any, child: Any) -> Trapped:
    """`with trapped(call, body) as (pid, listener, result):` a child whose `call` is notified; `result()` its value."""

    @contextmanager
    def start(call: str, body: Callable[[], object], flags: int = 0) -> Iterator[tuple[int, int, Callable[[], str]]]:
        reader, writer = os.pipe()

        def in_child() -> None:
            prctl.set_no_new_privs()
            program = filter_for(call, Action.USER_NOTIF)
            listener = seccomp.set_mode_filter(program, FilterFlag.NEW_LISTENER | flags)
            os.write(writer, b"%d\n" % listener)
            os.write(writer, repr(body()).encode())

        with child(in_child) as pid, os.fdopen(reader, "rb", buffering=0) as stream:
            os.close(writer)
            number = b""
            while not number.endswith(b"\n"):
                number += stream.read(1)
            process = pidfd.open_pidfd(pid)
            listener = pidfd.getfd(process, int(number))
            os.close(process)
            yield pid, listener, lambda: stream.read().decode()
            os.close(listener)

    return start


def received(listener: int) -> notif.Request:
    request = notif.Request()
    assert notif.receive(listener, request) is notif.Received.NOTIFICATION
    return request


def refused_uname() -> str:
    try:
        return os.uname().sysname
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def test_a_request_says_who_calls_what_and_gets_its_value(trapped: Trapped, numbers: dict[str, int]) -> None:
    with trapped("getppid", os.getppid) as (pid, listener, result):
        request = received(listener)
        assert (request.tid, request.nr) == (pid, numbers["getppid"])
        assert request.fields() == (
            request.id,
            pid,
            0,
            request.nr,
            request.arch,
            request.instruction_pointer,
            *request.args,
        )
        assert notif.id_valid(listener, request.id)
        assert notif.send(listener, request.id, 4242)
        assert result() == "4242"


def test_an_error_and_a_continue_reach_the_child(trapped: Trapped) -> None:
    with trapped("uname", lambda: (refused_uname(), refused_uname())) as (_, listener, result):
        assert notif.send(listener, received(listener).id, error=errno.EXDEV)
        assert notif.send(listener, received(listener).id, flags=ResponseFlag.CONTINUE)
        assert result() == "('EXDEV', 'Linux')"


def test_one_buffer_serves_many_notifications(trapped: Trapped) -> None:
    with trapped("getppid", lambda: [os.getppid() for _ in range(100)]) as (_, listener, result):
        request = notif.Request()
        seen = set()
        for number in range(100):
            assert notif.receive(listener, request) is notif.Received.NOTIFICATION
            seen.add(request.id)
            assert notif.send(listener, request.id, number)
        assert result() == repr(list(range(100)))
        assert len(seen) == 100


def test_a_second_answer_is_an_error(trapped: Trapped) -> None:
    def twice() -> None:
        os.getppid()
        time.sleep(60)

    with trapped("getppid", twice) as (_, listener, _result):
        request = received(listener)
        assert notif.send(listener, request.id)
        assert second_answer(listener, request.id) in (errno.EINPROGRESS, errno.ENOENT)  # or it has left the call


def second_answer(listener: int, notification: int) -> int:
    try:
        return 0 if notif.send(listener, notification) else errno.ENOENT
    except SyscallError as error:
        return error.errno


def read_opened() -> str:
    fd = os.open("/does/not/exist", os.O_RDONLY)
    return f"{fd} {os.get_inheritable(fd)} {os.read(fd, 100).decode()}"


@pytest.mark.parametrize("close_on_exec", [False, True])
def test_an_injected_fd_is_the_answer(trapped: Trapped, close_on_exec: bool) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"through the supervisor")
    with trapped("openat", read_opened) as (_, listener, result):
        number = notif.add_fd(listener, received(listener).id, reader, close_on_exec=close_on_exec, answer=True)
        assert result() == repr(f"{number} {not close_on_exec} through the supervisor")
    os.close(reader)
    os.close(writer)


def test_the_target_number_is_honoured(trapped: Trapped) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"at fifty-seven")
    with trapped("getppid", lambda: (os.getppid(), os.read(57, 100))) as (_, listener, result):
        request = received(listener)
        assert notif.add_fd(listener, request.id, reader, target=57) == 57
        assert notif.send(listener, request.id, 1)
        assert result() == "(1, b'at fifty-seven')"
    os.close(reader)
    os.close(writer)


def test_a_target_of_zero_is_a_target_too(trapped: Trapped) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"stdin")
    with trapped("getppid", lambda: (os.getppid(), os.read(0, 100))) as (_, listener, result):
        assert notif.add_fd(listener, received(listener).id, reader, target=0, answer=True) == 0
        assert result() == "(0, b'stdin')"
    os.close(reader)
    os.close(writer)


def test_a_full_fd_table_fails_the_injection_and_leaves_the_call_waiting(trapped: Trapped) -> None:
    def full() -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        try:
            return read_opened()
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    with trapped("openat", full) as (_, listener, result):
        request = received(listener)
        with pytest.raises(SyscallError) as caught:
            notif.add_fd(listener, request.id, listener, answer=True)
        assert caught.value.errno == errno.EMFILE
        with pytest.raises(SyscallError) as caught:
            notif.add_fd(listener, request.id, listener, target=57)
        assert caught.value.errno == errno.EBADF
        assert notif.id_valid(listener, request.id)
        assert notif.send(listener, request.id, error=errno.EMFILE)
        assert result() == "'EMFILE'"


def test_a_killed_child_makes_every_answer_void(trapped: Trapped) -> None:
    with trapped("getppid", os.getppid) as (pid, listener, _):
        request = received(listener)
        assert notif.id_valid(listener, request.id)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert notif.id_valid(listener, request.id) is False
        assert notif.send(listener, request.id, 1) is False
        assert notif.add_fd(listener, request.id, 0) is None
        assert notif.add_fd(listener, request.id, 0, answer=True) is None


def test_a_child_that_dies_before_the_receive_is_gone(trapped: Trapped) -> None:
    with trapped("getppid", os.getppid) as (pid, listener, _):
        # Readable: the notification is queued, so the receive below cannot wait for ever.
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        assert poller.poll(10_000)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert notif.receive(listener, notif.Request()) is notif.Received.GONE


def test_a_signal_ends_the_wait_and_says_so(trapped: Trapped) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)  # again: the first may come before the wait
    try:
        with trapped("getppid", lambda: time.sleep(60)) as (_, listener, _result):
            assert notif.receive(listener, notif.Request()) is notif.Received.INTERRUPTED
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def signalled(pid: int, listener: int) -> bool:
    """Whether a received notification outlives a handled signal to its task."""
    request = received(listener)
    os.kill(pid, signal.SIGUSR1)
    deadline = time.monotonic() + 0.5
    while notif.id_valid(listener, request.id) and time.monotonic() < deadline:
        time.sleep(0.01)
    return notif.id_valid(listener, request.id)


def with_handler() -> None:
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.getppid()


def test_wait_killable_keeps_a_received_call_through_a_signal(trapped: Trapped) -> None:
    with trapped("getppid", with_handler) as (pid, listener, _):
        assert signalled(pid, listener) is False
    with trapped("getppid", with_handler, FilterFlag.WAIT_KILLABLE_RECV) as (pid, listener, _):
        assert signalled(pid, listener) is True


def test_listener_flags_go_by_value(trapped: Trapped) -> None:
    with trapped("getppid", os.getppid) as (_, listener, result):
        if probe().seccomp_sync_wake_up:  # 6.6
            notif.set_flags(listener, ListenerFlag.SYNC_WAKE_UP)
            notif.set_flags(listener, 0)
        with pytest.raises(SyscallError) as caught:
            notif.set_flags(listener, 1 << 40)
        assert caught.value.errno == errno.EINVAL
        notif.send(listener, received(listener).id, 3)
        assert result() == "3"


def test_add_fd_leaves_the_signal_mask_alone(trapped: Trapped) -> None:
    with trapped("getppid", os.getppid) as (_, listener, result):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        now = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        notif.add_fd(listener, received(listener).id, 0, answer=True)
        assert signal.pthread_sigmask(signal.SIG_SETMASK, before) == now
        assert int(result()) > 2


def test_a_wrong_fd_is_an_error_not_an_answer() -> None:
    reader, writer = os.pipe()
    with pytest.raises(SyscallError):
        notif.receive(reader, notif.Request())
    with pytest.raises(SyscallError):
        notif.id_valid(reader, 1)
    os.close(reader)
    os.close(writer)
