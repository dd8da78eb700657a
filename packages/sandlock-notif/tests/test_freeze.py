"""A frozen tree executes nothing, however busy it was, and goes on as if nothing had been (NOT-27, NOT-28)."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from supervision import Table, supervise

from sandlock_notif import Action, Supervisor, Trap, Value
from sandlock_notif.freeze import MAX_TASKS, FreezeError, freeze_tree
from sandlock_notif.handlers.exec import ExecTable
from sandlock_notif.handlers.processes import ProcessLimit
from sandlock_notif.tracing import Tracer
from sandlock_notif.tree import between
from sandlock_policy.seccomp.rules import ABSENT, Rule
from sandlock_sys import ptrace
from sandlock_sys.errors import SyscallError
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


def run(program: str, path: Path, job: Job) -> None:
    execs = ExecTable(verify=True)
    tables = (Table((Trap("getppid", slow, "slow"),)), ProcessLimit(30), execs)
    outcome = supervise(
        [program, str(path)],
        *tables,
        rules=[CLONE3],
        while_running=lambda supervisor, spawned: job(supervisor, spawned, execs),
    )
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
