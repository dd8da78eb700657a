"""A parked child is confined, waits before its exec, and can be let go, ended or killed."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from launch_lab import alive_with, fields_of, has_ended, launched, new_mark, new_request, wait_until

from sandlock_sys import pidfd
from sandlock_sys.constants.seccomp import Action, FilterFlag
from sandlock_sys.spawn import NO_THP, SpawnError, spawn

pytestmark = pytest.mark.usefixtures("leaks")

BOTH = pytest.mark.parametrize("flags", [0, NO_THP], ids=["shared-memory", "own-memory"])
SENDMSG = {"x86_64": 46, "aarch64": 211, "riscv64": 211}[os.uname().machine]
SHOW = "for fd in 3 4 5 6 7 8 9; do [ ! -e /proc/self/fd/$fd ] || exit 1; done"
ALLOW = struct.pack("=HBBI", 6, 0, 0, Action.ALLOW)


@BOTH
def test_a_parked_child_is_confined_and_has_not_executed(flags: int, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    with launched(["touch", str(touched)], park=True, flags=flags, filter=ALLOW) as spawned:
        assert wait_until(lambda: spawned.parked, 0)
        status = fields_of(Path(f"/proc/{spawned.pid}/status").read_bytes())
        assert (status["NoNewPrivs"], int(status["CapEff"], 16), status["Seccomp"]) == ("1", 0, "2")
        time.sleep(0.05)
        assert not touched.exists()
        assert not has_ended(spawned, 0)
        spawned.go()
        assert not wait_until(lambda: spawned.parked, 0)
        report = spawned.guard.report()
        assert report is not None
        assert report.status == 0
        spawned.go()  # again: nothing to do, and no memory of the launch is touched
    assert touched.exists()


@BOTH
def test_an_exec_that_fails_after_the_park_is_told_by_go(flags: int) -> None:
    with new_request(["/nowhere/program"], park=True, flags=flags) as request:
        spawned = spawn(request)
    with pytest.raises(SpawnError) as caught:
        spawned.go()
    assert (caught.value.step, caught.value.errno, caught.value.detail) == ("exec", errno.ENOENT, "/nowhere/program")
    assert spawned.guard.report() is None
    spawned.guard.close()


@BOTH
def test_an_abandoned_child_never_executes(flags: int, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    with launched(["touch", str(touched)], park=True, flags=flags) as spawned:
        spawned.abandon()
        report = spawned.guard.report()
        assert report is not None
        assert os.WTERMSIG(report.status) == signal.SIGKILL
        spawned.go()
    assert not touched.exists()


@BOTH
def test_a_parked_child_hears_orders(flags: int) -> None:
    with launched(["true"], park=True, flags=flags) as spawned:
        spawned.guard.kill()
        report = spawned.guard.report()
        assert report is not None
        assert os.WTERMSIG(report.status) == signal.SIGKILL


@BOTH
def test_a_parked_child_that_is_closed_is_gone(flags: int) -> None:
    mark = new_mark()
    with launched(["sleep", "600", mark], park=True, flags=flags) as spawned:
        pid = spawned.pid
    assert not Path(f"/proc/{pid}").exists()
    assert alive_with(mark) == []


@BOTH
def test_a_parked_child_that_is_killed_from_outside_is_told_by_the_report(flags: int) -> None:
    with launched(["true"], park=True, flags=flags) as spawned:
        os.kill(spawned.pid, signal.SIGKILL)
        spawned.go()  # returns: there is nobody to wait for
        report = spawned.guard.report()
        assert report is not None
        assert os.WTERMSIG(report.status) == signal.SIGKILL


@pytest.mark.needs("seccomp", level=2)
@BOTH
def test_the_listener_can_be_taken_while_parked_and_is_gone_after(flags: int) -> None:
    fields: dict[str, Any] = {"filter": ALLOW, "filter_flags": FilterFlag.NEW_LISTENER, "park": True, "flags": flags}
    reader, writer = os.pipe()
    try:
        with launched(["ls", "-l", "/proc/self/fd"], stdio=(0, writer, 2), **fields) as spawned:
            os.close(writer)
            process = pidfd.open_pidfd(spawned.pid)
            listener = pidfd.getfd(process, spawned.listener)
            os.close(process)
            assert "seccomp" in os.readlink(f"/proc/self/fd/{listener}")
            spawned.go()
            spawned.guard.report()
            assert b"seccomp" not in os.read(reader, 4096), "SEC-12: no listener inside"
            # No task has the filter any more, so nobody but us has the listener.
            watch = select.poll()
            watch.register(listener, select.POLLIN)
            assert watch.poll(2000)[0][1] & select.POLLHUP
            os.close(listener)
    finally:
        os.close(reader)


@BOTH
def test_a_listener_may_have_any_place_among_kept_fds(flags: int) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    keep = [os.dup2(null, number) for number in (40, 41, 60)]
    os.close(null)
    try:
        fields: dict[str, Any] = {
            "filter": ALLOW,
            "filter_flags": FilterFlag.NEW_LISTENER,
            "park": True,
            "flags": flags,
        }
        with launched(["true"], keep=keep, **fields) as spawned:
            names = {int(name) for name in os.listdir(f"/proc/{spawned.pid}/fd")}
            assert names == {0, 1, 2, *keep, spawned.listener}
            spawned.go()
    finally:
        for fd in keep:
            os.close(fd)


@BOTH
def test_many_parked_children_hold_nothing_of_each_other(flags: int) -> None:
    """A pipe to one of them ends when the host closes it, though the others were started while it was open."""
    reader, writer = os.pipe()
    answer, sink = os.pipe()
    with launched(["cat"], stdio=(reader, sink, 2)) as cat:
        os.close(reader)
        os.close(sink)
        with launched(["true"], park=True, flags=flags), launched(["true"], park=True, flags=flags):
            os.write(writer, b"text")
            os.close(writer)
            assert wait_until(lambda: has_ended(cat, 0), 3), "a parked child still held the pipe"
    assert os.read(answer, 10) == b"text"
    os.close(answer)


@BOTH
def test_a_listener_is_passed_where_it_may_not_be_taken(flags: int) -> None:
    """The filter asks a supervisor for every sendmsg: the child itself could not send, and its thread can."""
    host, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    host.settimeout(10)
    notify = struct.pack("=HBBIHBBIHBBI", 0x20, 0, 0, 0, 0x15, 0, 1, SENDMSG, 6, 0, 0, 0x7FC00000) + ALLOW
    listening: dict[str, Any] = {"filter": notify, "filter_flags": int(FilterFlag.NEW_LISTENER)}
    with host, launched(["sh", "-c", SHOW], park=True, flags=flags, relay=child.fileno(), **listening) as spawned:
        child.close()
        content, passed, _, _ = socket.recv_fds(host, 1, 4)
        assert (content, len(passed)) == (b"L", 1)
        taken = os.pidfd_open(spawned.pid)
        same = pidfd.getfd(taken, spawned.listener)
        assert os.readlink(f"/proc/self/fd/{passed[0]}") == "anon_inode:seccomp notify"
        assert os.fstat(same).st_ino == os.fstat(passed[0]).st_ino
        assert host.recv(1) == b"", "nobody else holds the child's end"
        for fd in (taken, same, passed[0]):
            os.close(fd)
        spawned.go()
        report = spawned.guard.report()
        assert report is not None
        assert os.waitstatus_to_exitcode(report.status) == 0, "the program has no fd but its standard streams"
        assert report.reaped == 1, "the thread was none of its processes"


def test_a_listener_that_cannot_be_passed_fails_the_launch() -> None:
    reader, writer = os.pipe()  # no socket
    listening: dict[str, Any] = {"filter": ALLOW, "filter_flags": int(FilterFlag.NEW_LISTENER)}
    with new_request(["true"], park=True, relay=writer, **listening) as request, pytest.raises(SpawnError) as caught:
        spawn(request)
    assert (caught.value.step, caught.value.errno) == ("listener", errno.ENOTSOCK)
    os.close(reader)
    os.close(writer)
