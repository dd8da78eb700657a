"""Programs that change their family while they are being stopped: nobody below the first one is missed."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from process_lab import Lab, Running, wait_until

import sandlock_arch
from sandlock_checkpoint import CaptureError, Scope, capture
from sandlock_checkpoint.capture import drive, tree
from sandlock_checkpoint.capture.stop import StoppedProcess, stop_process
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import read_stat, read_status

pytestmark = pytest.mark.needs("ptrace")

# Prints the pids of a first child, of a second one, and of the child of that. Who adopts orphans is the program itself.
FAMILY = """
import ctypes, os, signal
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
def born(name):
    pid = os.fork()
    if not pid:
        os.write(1, b"%s %d\\n" % (name, os.getpid()))  # whole: others write at the same time
    return pid
if not born(b"first"): signal.pause()
if not born(b"second"):
    born(b"third")
    signal.pause()
signal.pause()
"""


def is_gone(pid: int) -> bool:
    """Whether a process has ended, buried or not."""
    try:
        return read_stat(pid).state in "ZX"
    except SyscallError:
        return True


class Family:
    """The program above, and whether its third process has been adopted by the grandparent."""

    def __init__(self, lab: Lab) -> None:
        self.running: Running = lab.python(FAMILY)
        self.running.wait_for("third ")
        wait_until(lambda: len(self.running.lines()) == 3, "all three")
        self.pids = {line.split()[0]: int(line.split()[1]) for line in self.running.lines()}

    def orphan(self) -> None:
        """End the second process, and wait until the third is the first one's."""
        os.kill(self.pids["second"], signal.SIGKILL)
        wait_until(lambda: read_stat(self.pids["third"]).ppid == self.running.pid, "the adoption")

    def end(self) -> None:
        """End what the lab does not know."""
        for pid in self.pids.values():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
def family(lab: Lab) -> Family:
    return Family(lab)


def orphaning(family: Family, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the second process end when the first one has just been stopped; the list gets who is stopped."""
    stopped: list[int] = []

    def stop(pid: int, *arguments: Any, **named: Any) -> StoppedProcess:
        result = stop_process(pid, *arguments, **named)
        stopped.append(pid)
        if pid == family.pids["first"]:
            family.orphan()
        return result

    monkeypatch.setattr(tree, "stop_process", stop)
    return stopped


def test_who_is_adopted_by_one_that_stands_still_already_is_stopped_as_well(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = orphaning(family, monkeypatch)
    try:
        with capture(family.running.pid, scope=Scope.TREE) as checkpoint:
            assert stopped == [family.running.pid, family.pids["first"], family.pids["third"]]
            assert read_status(family.pids["third"]).tracer_pid == os.getpid()
            assert len(checkpoint.processes) == 4, "the second is a zombie"
    finally:
        family.end()


def test_where_one_must_not_run_on_nobody_does(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have the memory and the table of descriptors in common with the one that is given up."""

    def tear(job: Any, *_arguments: object) -> None:
        members: list[tree.Member] = job.members
        assert members[2].stopped is not None
        members[2].stopped.doomed = True
        raise KeyboardInterrupt

    monkeypatch.setattr(drive._Job, "describe", tear)
    try:
        with pytest.raises(KeyboardInterrupt):
            capture(family.running.pid, scope=Scope.TREE)
        assert family.running.process.wait(20) == -signal.SIGKILL
        for pid in family.pids.values():
            wait_until(lambda pid=pid: is_gone(pid), "the end of all")  # type: ignore[misc]  # bound at once
    finally:
        family.end()


def test_new_ones_are_not_looked_for_for_ever(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_RESTLESS_S", 0.0)
    orphaning(family, monkeypatch)
    members: list[tree.Member] = []
    try:
        with pytest.raises(CaptureError, match="made all the time, 4 so far"):
            tree.stop_tree(family.running.pid, sandlock_arch.native(), 10, members)
        assert len(members) == 4
    finally:
        for member in members:
            if member.stopped is not None:
                member.stopped.release()
        family.end()
