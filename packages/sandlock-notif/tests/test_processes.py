"""The index of processes: identity by pid and start time, ends seen, fds bounded."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from sandlock_notif import Processes, Request, processes
from sandlock_notif.fs.numbering import Numbering

pytestmark = pytest.mark.needs("pidfd", level=2)


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    with ExitStack() as stack:
        started = [subprocess.Popen(["sleep", "60"]) for _ in range(6)]
        for one in started:
            stack.callback(one.wait)
            stack.callback(one.kill)
        yield started


def test_a_process_is_the_same_entry_until_it_ends(sleepers: list[subprocess.Popen[bytes]]) -> None:
    index = Processes()
    first = index.register(sleepers[0].pid)
    assert index.register(sleepers[0].pid) is first
    assert index.get(sleepers[0].pid) is first
    assert index.contains(sleepers[0].pid)
    assert index.largest_pid == sleepers[0].pid
    sleepers[0].kill()
    sleepers[0].wait()
    assert index.get(sleepers[0].pid) is None
    assert not index.contains(sleepers[0].pid)
    with pytest.raises(OSError, match="no process"):
        index.register(sleepers[0].pid)
    index.close()


def test_state_is_freed_with_its_process_and_the_end_is_told(sleepers: list[subprocess.Popen[bytes]]) -> None:
    async def main() -> list[int]:
        index = Processes(asyncio.get_running_loop())
        ended: list[int] = []
        index.on_exit(lambda process: ended.append(process.pid))
        entry = index.register(sleepers[0].pid)
        entry.state(list).append(1)
        assert entry.state(list) == [1]
        sleepers[0].kill()
        for _ in range(200):
            if ended:
                break
            await asyncio.sleep(0.01)
        assert len(index) == 0
        index.close()
        return ended

    assert asyncio.run(main()) == [sleepers[0].pid]


def test_a_zombie_has_ended(sleepers: list[subprocess.Popen[bytes]]) -> None:
    index = Processes()
    entry = index.register(sleepers[0].pid)
    sleepers[0].kill()
    os.waitid(os.P_PID, sleepers[0].pid, os.WEXITED | os.WNOWAIT)
    assert not entry.alive()
    index.prune()
    assert len(index) == 0
    index.close()


def test_one_sandbox_takes_no_more_fds_than_its_share(
    sleepers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MAX_PIDFDS", 2)
    monkeypatch.setattr(processes, "_PRUNE", 2)
    index = Processes()
    entries = [index.register(one.pid) for one in sleepers]
    assert [entry.pidfd >= 0 for entry in entries] == [True, True, False, False, False, False]
    assert all(entry.alive() for entry in entries)
    sleepers[5].kill()
    os.waitid(os.P_PID, sleepers[5].pid, os.WEXITED | os.WNOWAIT)
    assert not entries[5].alive()  # without an fd too
    for entry in entries[:5]:
        entry.send_signal(0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.close(entry.take_fd(999))
    sleepers[5].wait()
    with pytest.raises(OSError, match="No such process"):
        entries[5].send_signal(0)
    other = processes.Process(sleepers[4].pid, entries[4].start - 1, -1)  # whose number that process has got
    with pytest.raises(OSError, match="has ended"):
        other.take_fd(0)
    index.unregister(entries[0])
    replacement = subprocess.Popen(["sleep", "60"])
    try:
        assert index.register(replacement.pid).pidfd >= 0  # the share is free again
    finally:
        replacement.kill()
        replacement.wait()
        index.close()


def test_descendants_of_the_root_are_members_and_nobody_else() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE) as tree:
        assert tree.stdout is not None
        child = int(tree.stdout.readline())
        try:
            index = Processes(root=tree.pid)
            assert index.contains(child)
            assert not index.contains(os.getpid())
            assert not index.contains(1)
            index.close()
        finally:
            os.kill(child, 9)
            tree.kill()


def test_a_walk_that_numbers_given_away_have_deceived_registers_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "_may_descend", lambda *_: True)  # what such a walk says
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        index = Processes(root=os.getpid())
        assert not index.contains(os.getppid())
        assert not index.contains(1)
        assert len(index) == 0
        assert index.contains(child.pid)
        index.close()


@pytest.mark.needs("mount_namespace")
def test_inf_01_a_number_in_the_proc_of_another_namespace_is_nobody_of_ours() -> None:
    """The sandbox has a process that is called so on the host; the folder is that of a stranger."""
    command = ["unshare", "-r", "-p", "-f", "--mount-proc", "sh", "-c", "echo in; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as stranger:
        try:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == b"in\n"
            numbering = Numbering(cast("Processes", SimpleNamespace(contains=lambda _: True)))
            request = cast("Request", SimpleNamespace(tid=os.getpid()))
            children = Path(f"/proc/{stranger.pid}/task/{stranger.pid}/children").read_text().split()
            folders = {f"/proc/{children[0]}/root/proc/1": False, f"/proc/{os.getpid()}": True}
            for folder, ours in folders.items():
                fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
                try:
                    assert numbering.owns(request, fd, int(folder.rpartition("/")[2])) == ours, folder
                finally:
                    os.close(fd)
            os.kill(int(children[0]), 9)
        finally:
            stranger.kill()
