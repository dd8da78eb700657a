"""A frozen tree executes nothing, however busy it was, and goes on as if nothing had been (NOT-27, NOT-28)."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from supervision import PYTHON, Outcome, Table, supervise

from sandlock_notif import Action, Supervisor, Trap, Value, tree
from sandlock_notif.freeze import MAX_TASKS, FreezeError, freeze_tree
from sandlock_notif.handlers.exec import ExecTable
from sandlock_notif.handlers.processes import ProcessLimit
from sandlock_notif.processes import Processes
from sandlock_notif.tracing import Tracer
from sandlock_notif.tree import between
from sandlock_policy.seccomp.rules import ABSENT, Rule
from sandlock_sys import ptrace
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import read_stat
from sandlock_sys.spawn import Spawned

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("pidfd", level=2),
    pytest.mark.needs("ptrace"),
    pytest.mark.needs("compiler"),
    pytest.mark.usefixtures("leaks"),
]

CLONE3 = Rule("clone3", (), ABSENT, "as in the default filter")
SOURCE = Path(__file__).with_name("counting.c").read_text()
Compile = Callable[..., Path]
Job = Callable[[Supervisor, Spawned, ExecTable], object]


@pytest.fixture
def program(compile_c: Compile) -> str:
    return str(compile_c(SOURCE, "-pthread", "-w"))


class Counts:
    """What the program counts in a file that we see, too."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(4096))
        path.chmod(0o666)
        for folder in (path.parent, *list(path.parents)[1:-2]):
            folder.chmod(0o755)
        fd = os.open(path, os.O_RDWR)
        self._map = mmap.mmap(fd, 4096)
        os.close(fd)

    def now(self) -> tuple[int, ...]:
        return tuple(int.from_bytes(self._map[at * 8 : at * 8 + 8], "little") for at in range(16))

    def end(self) -> None:
        self._map[56:64] = (1).to_bytes(8, "little")


async def until_moved(counts: Counts, since: tuple[int, ...]) -> None:
    """Wait until everybody has counted on; a loaded machine may let some of them wait for seconds."""
    expected = [*range(1, 7), 8]
    for _ in range(600):
        now = counts.now()
        if all(now[at] != since[at] for at in expected):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not all have moved: {since} {counts.now()}")


async def slow(_: object) -> Action:
    await asyncio.sleep(0.01)
    return Value(1)


def run_to_its_end(program: str, path: Path, job: Job) -> Outcome:
    execs = ExecTable(verify=True)
    tables = (Table((Trap("getppid", slow, "slow"),)), ProcessLimit(30), execs)
    return supervise(
        [program, str(path)],
        *tables,
        rules=[CLONE3],
        while_running=lambda supervisor, spawned: job(supervisor, spawned, execs),
    )


def run(program: str, path: Path, job: Job) -> None:
    outcome = run_to_its_end(program, path, job)
    assert [event for event in outcome.events if event.kind != "denied"] == []
    assert not [event for event in outcome.events if "exec" in event.reason]


def test_a_frozen_tree_stands_still_and_goes_on(program: str, tmp_path: Path) -> None:
    counts = Counts(tmp_path / "counts")
    seen: list[str] = []

    async def job(supervisor: Supervisor, spawned: Spawned, execs: ExecTable) -> None:
        outside = between(supervisor.processes.root, spawned.pid)
        tracer = Tracer(MAX_TASKS)
        await until_moved(counts, (0,) * 16)
        for _ in range(4):
            frozen = await freeze_tree(supervisor.processes, outside, tracer, execs.gate)
            assert len(frozen.stopped | frozen.waiting) >= 8
            before = counts.now()
            await asyncio.sleep(0.1)
            after = counts.now()
            assert before == after
            seen.append("still")
            await frozen.thaw()
            await frozen.thaw()
            await until_moved(counts, after)
        counts.end()
        await asyncio.sleep(0.2)
        await tracer.close()

    run(program, tmp_path / "counts", job)
    assert seen == ["still"] * 4


def test_not_27_a_tree_with_a_task_that_cannot_be_stopped_is_left_running(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts(tmp_path / "counts")
    real = ptrace.seize
    refused: list[int] = []

    def seize(tid: int, options: int = 0) -> None:
        if tid in refused:
            raise SyscallError("ptrace PTRACE_SEIZE", errno.EPERM)
        real(tid, options)

    async def job(supervisor: Supervisor, spawned: Spawned, execs: ExecTable) -> None:
        outside = between(supervisor.processes.root, spawned.pid)
        tracer = Tracer(MAX_TASKS)
        refused.append(spawned.pid)
        await until_moved(counts, (0,) * 16)
        with monkeypatch.context() as patch:
            patch.setattr(ptrace, "seize", seize)
            with pytest.raises(FreezeError, match=r"seized|are not|does not end"):  # as far as it came in its time
                await freeze_tree(supervisor.processes, outside, tracer, execs.gate, 0.3)
        await until_moved(counts, counts.now())
        counts.end()
        await asyncio.sleep(0.2)
        await tracer.close()

    run(program, tmp_path / "counts", job)


@pytest.mark.parametrize("broken", [("interrupt",), ("wait",), ("interrupt", "wait", "detach")], ids="+".join)
def test_where_ptrace_fails_the_freeze_says_so_and_nobody_stays_stopped(
    broken: tuple[str, ...], program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts(tmp_path / "counts")

    def fail(*_words: object, **_more: object) -> None:
        raise SyscallError("ptrace", errno.EIO)

    async def job(supervisor: Supervisor, spawned: Spawned, execs: ExecTable) -> None:
        outside = between(supervisor.processes.root, spawned.pid)
        tracer, first = Tracer(MAX_TASKS), supervisor.processes.register(spawned.pid)
        await until_moved(counts, (0,) * 16)
        with monkeypatch.context() as patch:
            for name in broken:
                patch.setattr(ptrace, name, fail)
            with pytest.raises(FreezeError):
                await freeze_tree(supervisor.processes, outside, tracer, execs.gate, 5)
        # What could be held by nobody has been killed with the thread that had seized it.
        for _ in range(600):
            if not first.alive():
                break
            await asyncio.sleep(0.05)
        assert not first.alive()
        await tracer.close()

    outcome = run_to_its_end(program, tmp_path / "counts", job)
    assert outcome.code == -signal.SIGKILL


# A root that adopts, its child, the child of that, and so on: each prints its number.
LINE = """
import ctypes, os, signal, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
depth = 0
while depth < 3 and not os.fork(): depth += 1
os.write(1, b"%d %d\\n" % (depth, os.getpid()))
signal.pause()
"""


@pytest.mark.needs("ptrace")
def test_who_is_handed_up_by_two_deaths_at_their_moments_is_held_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child ends when the root has been asked for its children, and in the next walk the grandchild does."""
    process = subprocess.Popen([PYTHON, "-I", "-S", "-c", LINE], stdout=subprocess.PIPE)
    assert process.stdout is not None
    pids: dict[int, int] = {}
    for _ in range(4):
        depth, pid = map(int, process.stdout.readline().split())
        pids[depth] = pid
    root, to_end = pids.pop(0), [pids[1], pids[2]]
    real = tree._read_children
    walks: list[list[int]] = []

    def read(pid: int, tid: int) -> list[int]:
        found = real(pid, tid)
        if pid == root:
            walks.append(found)
            if to_end and to_end[0] in found:
                heir = pids[{1: 2, 2: 3}[next(number for number, one in pids.items() if one == to_end[0])]]
                os.kill(to_end.pop(0), signal.SIGKILL)
                while read_stat(heir).ppid != root:
                    time.sleep(0.001)
        return found

    async def freeze() -> frozenset[int]:
        processes, tracer = Processes(None, root), Tracer(MAX_TASKS)
        frozen = await freeze_tree(processes, frozenset(), tracer)
        try:
            return frozen.stopped
        finally:
            await frozen.thaw()
            await tracer.close()
            processes.close()

    monkeypatch.setattr(tree, "_read_children", read)
    try:
        assert asyncio.run(freeze()) >= {pids[3]}
        assert walks[:2] == [[pids[1]], [pids[1], pids[2]]], "or no list was old at the wrong moment"
    finally:
        for pid in (root, *pids.values()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
