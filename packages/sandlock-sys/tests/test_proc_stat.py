"""stat, status, tasks and children of real processes, with names that try to be something else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_sys import prctl, proc
from sandlock_sys.errors import ProcParseError, SyscallError

COMMS = st.binary(max_size=15).filter(lambda name: b"\0" not in name)
NASTY = [b"a b", b") R 1 1 (", b"(((", b")))", b"a\nb", b"\xff\x80", b"", b" ) ", b"back\\slash\\n", b"x\ty"]


@given(COMMS, st.lists(st.integers(-(2**63), 2**64 - 1), min_size=49, max_size=49), st.integers(1, 2**22))
def test_a_stat_line_is_read_back_whatever_the_name(comm: bytes, numbers: list[int], pid: int) -> None:
    line = b"%d (%s) S %s" % (pid, comm, b" ".join(b"%d" % number for number in numbers))
    stat = proc.parse_stat(line + b"\n")
    assert (stat.pid, stat.comm, stat.state) == (pid, comm, "S")
    assert [getattr(stat, name) for name in proc.Stat.__slots__[3:]] == numbers
    assert proc.parse_stat(line + b" 17 18\n") == stat


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1 (x) S\n",
        b"1 x S " + b"0 " * 49 + b"\n",
        b"1 (x S " + b"0 " * 49 + b"\n",
        b"1 (x) SS " + b"0 " * 49 + b"\n",
        b"1 (x) 1 " + b"0 " * 49 + b"\n",
        b"1 (x) S " + b"0 " * 48 + b"x\n",
        b"one (x) S " + b"0 " * 49 + b"\n",
        b"1 (x) S " + b"0 " * 49,
        b"1 ) ( S " + b"0 " * 49 + b"\n",
    ],
)
def test_a_malformed_stat_is_an_error(data: bytes) -> None:
    with pytest.raises(ProcParseError):
        proc.parse_stat(data)


@pytest.mark.parametrize("comm", NASTY)
def test_a_process_may_call_itself_anything(child: Any, comm: bytes) -> None:
    reader, writer = os.pipe()

    def body() -> None:
        prctl.set_name(comm)
        os.write(writer, b"x")
        time.sleep(60)

    with child(body) as pid:
        os.read(reader, 1)
        stat, status = proc.read_stat(pid), proc.read_status(pid)
        assert (stat.comm, status.name) == (comm, comm)
        assert (stat.pid, stat.ppid, status.pid, status.tgid, status.ppid) == (pid, os.getpid(), pid, pid, os.getpid())
        assert (stat.num_threads, status.threads) == (1, 1)
        assert proc.read_stat(pid, pid).starttime == stat.starttime
        assert proc.read_children(os.getpid()) == (pid,)
    os.close(reader)
    os.close(writer)


def test_status_tells_ids_masks_and_memory(child: Any) -> None:
    reader, writer = os.pipe()

    def body() -> None:
        os.umask(0o27)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, lambda *_: None)
        prctl.set_no_new_privs()
        os.write(writer, b"x")
        time.sleep(60)

    with child(body) as pid:
        os.read(reader, 1)
        os.kill(pid, signal.SIGUSR2)
        status = proc.read_status(pid)
        assert status.umask == 0o27
        assert status.no_new_privs is True
        assert status.signals_blocked == 1 << signal.SIGUSR2 - 1
        assert status.signals_process_pending == 1 << signal.SIGUSR2 - 1
        assert status.signals_ignored & 1 << signal.SIGUSR1 - 1
        assert status.signals_caught & 1 << signal.SIGHUP - 1
        assert (status.uid.real, status.uid.effective) == (os.getuid(), os.geteuid())
        assert (status.gid.saved, sorted(status.groups)) == (os.getresgid()[2], sorted(os.getgroups()))
        assert status.cap_effective == prctl.get_capabilities(pid)[0]
        assert status.memory["VmRSS"] == int(status.lines["VmRSS"].split()[0]) * 1024 > 0
        assert status.ns_pid is not None
        assert status.ns_pid[0] == pid
        assert status.seccomp == 0
    os.close(reader)
    os.close(writer)


def test_a_zombie_has_a_status_and_no_mappings(child: Any) -> None:
    with child(lambda: None) as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        status = proc.read_status(pid)
        assert (status.state, status.memory) == ("Z", {})
        assert proc.read_stat(pid).state == "Z"
        assert proc.read_maps(pid) == ()


def test_a_process_that_is_gone_is_a_syscall_error(child: Any) -> None:
    with child(lambda: None) as pid:
        os.waitpid(pid, 0)
    readers: list[Callable[[int], object]] = [
        proc.read_maps,
        proc.read_smaps,
        proc.read_stat,
        proc.read_status,
        proc.read_children,
        proc.list_tasks,
        proc.list_fds,
        proc.open_pagemap,
    ]
    for read in readers:
        with pytest.raises(SyscallError) as caught:
            read(pid)
        assert str(pid) in caught.value.detail


def test_status_without_a_needed_line_or_with_a_wrong_one_is_an_error() -> None:
    with open("/proc/self/status", "rb") as file:
        good = file.read()
    assert proc.parse_status(good).tgid == os.getpid()
    for old, new, name in [
        (b"Tgid:\t", b"Tgod:\t", "Tgid"),
        (b"PPid:\t", b"PPid:\tx", "PPid"),
        (b"Uid:\t", b"Uid:\t1\t", "Uid"),
        (b"SigBlk:\t", b"SigBlk:\tz", "SigBlk"),
        (b"Threads:\t", b"Threads:\t1 ", "Threads"),
    ]:
        with pytest.raises(ProcParseError, match=name):
            proc.parse_status(good.replace(old, new))
    with pytest.raises(ProcParseError, match="not a name"):
        proc.parse_status(b"no colon\n" + good)
    with pytest.raises(ProcParseError, match="cut off"):
        proc.parse_status(good[:-1])


def test_threads_are_listed() -> None:
    leave = threading.Event()
    threads = [threading.Thread(target=leave.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    tasks = proc.list_tasks(os.getpid())
    assert {os.getpid(), *(thread.native_id for thread in threads)} <= set(tasks)
    assert list(tasks) == sorted(tasks)
    assert all(proc.read_status(os.getpid(), tid).tgid == os.getpid() for tid in tasks)
    leave.set()
    for thread in threads:
        thread.join()


def test_lists_of_ids_hold_nothing_else() -> None:
    assert proc.parse_children(b"12 13 4000 ") == (12, 13, 4000)
    assert proc.parse_children(b"") == ()
    assert proc.parse_task_names(["10", "9"]) == (9, 10)
    with pytest.raises(ProcParseError):
        proc.parse_children(b"12 -1")
    with pytest.raises(ProcParseError):
        proc.parse_task_names(["1", "x"])
