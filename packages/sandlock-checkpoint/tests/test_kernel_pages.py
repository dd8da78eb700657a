"""Threads that are stopped in code that the kernel lends them, and the place of that code in the restored process."""

from __future__ import annotations

import ctypes
import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from process_lab import Lab, Running, build, capture_until, in_child, state_of, wait_until

import sandlock_arch
from sandlock_checkpoint import Leave, capture
from sandlock_checkpoint.restore import space
from sandlock_sys import ptrace
from sandlock_sys.proc import read_maps

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_checkpoint import Checkpoint
    from sandlock_sys.proc import Mapping

pytestmark = [pytest.mark.needs("ptrace"), pytest.mark.needs("compiler")]

PAGES = ["vdso", "vsyscall"]
NO_RANDOM_ADDRESSES = 0x0040000  # ADDR_NO_RANDOMIZE, linux/personality.h
_STEPS = 200_000
_PRSTATUS = 1  # NT_PRSTATUS


def page_of(pid: int, name: str) -> Mapping:
    found = [mapping for mapping in read_maps(pid) if mapping.name == f"[{name}]".encode()]
    if not found:
        pytest.skip(f"this kernel gives processes no [{name}]")
    return found[0]


def registers(tid: int) -> dict[str, int]:
    layout = sandlock_arch.native().registers
    return layout.general.unpack(ptrace.get_regset(tid, _PRSTATUS))


def counter(tid: int) -> int:
    return registers(tid)[sandlock_arch.native().registers.program_counter]


def held(pid: int) -> None:
    """Become the tracer of a process and stop it."""
    ptrace.seize(pid)
    ptrace.interrupt(pid)
    assert isinstance(ptrace.wait(pid), ptrace.Stopped)


def stop_inside(pid: int, name: str, further: int) -> dict[str, int]:
    """Leave the process stopped (SIGSTOP) in this page, `further` instructions behind its entry; its registers."""
    page = page_of(pid, name)
    held(pid)
    inside = 0
    for _ in range(_STEPS):
        ptrace.single_step(pid)
        change = ptrace.wait(pid)
        assert isinstance(change, ptrace.Stopped)
        inside = inside + 1 if page.start <= counter(pid) < page.end else 0
        if inside > further or (inside and name == "vsyscall"):
            break
    found = registers(pid)
    assert page.start <= found[sandlock_arch.native().registers.program_counter] < page.end
    ptrace.detach(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T", "the stop")
    return found


def registers_of(pid: int) -> dict[str, int]:
    held(pid)
    found = registers(pid)
    ptrace.detach(pid)
    return found


def go_on(running: Running) -> None:
    """Let a stopped program go on, and see that it does."""
    seen = len(running.lines())
    os.kill(running.pid, signal.SIGCONT)
    wait_until(lambda: len(running.lines()) > seen + 1 or running.process.poll() is not None, "two more lines")
    assert "wrong" not in running.text()
    assert running.process.poll() is None


def started(lab: Lab, programs: Path, name: str) -> Running:
    running = lab.start([build(programs, "kernel_pages"), name, lab.folder / "flag"])
    running.wait_for("round")
    page_of(running.pid, name)
    return running


@pytest.mark.parametrize("name", PAGES)
def test_calls_are_run_in_it_and_it_goes_on_where_it_was(lab: Lab, programs: Path, name: str) -> None:
    """CK-10: stopped at one instruction of the page and the next, captured, and each register is what it was."""
    running = started(lab, programs, name)
    for further in (0, 1, 2, 3, 5, 8, 13, 21):
        before = stop_inside(running.pid, name, further)
        capture(running.pid).close()
        assert registers_of(running.pid) == before
        go_on(running)
    (lab.folder / "flag").touch()
    assert running.process.wait(30) == 0
    assert running.lines()[-1] == "right"


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.needs("x86_64")
def test_it_survives_a_killed_capture_in_it(lab: Lab, programs: Path, name: str) -> None:
    running = started(lab, programs, name)
    killed = 0
    while True:
        stop_inside(running.pid, name, killed % 5)
        code = in_child(partial(capture_until, running.pid, killed * 5 + 1))
        assert running.process.poll() is None, f"it died after step {killed * 5 + 1}: {running.text()!r}"
        go_on(running)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
    assert killed > 5


@pytest.mark.parametrize("name", PAGES)
def test_it_is_restored_in_it(lab: Lab, programs: Path, name: str) -> None:
    running = started(lab, programs, name)
    inside = stop_inside(running.pid, name, 3)
    with lab.take(running, leave=Leave.KILLED) as checkpoint:
        seen = len(running.lines())
        restored = lab.restore(checkpoint)
    if state_of(restored.pid) == "T":
        os.kill(restored.pid, signal.SIGCONT)
    assert inside
    wait_until(lambda: len(running.lines()) > seen + 1, "two more lines")
    (lab.folder / "flag").touch()
    assert lab.finish(restored) == 0, running.text()
    assert running.lines()[-1] == "right"


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each restore, where the fresh process's pages of the kernel were, and where the captured one's."""
    seen: list[tuple[int, int]] = []
    real: Callable[..., None] = space._move_kernel_pages

    def note(target: object, present: list[Mapping], captured: list[Mapping], taken: object) -> None:
        seen.append((present[0].start, captured[0].start))
        real(target, present, captured, taken)

    monkeypatch.setattr(space, "_move_kernel_pages", note)
    return seen


def vdso(pid: int) -> tuple[int, int]:
    page = page_of(pid, "vdso")
    return page.start, page.end


def fixed() -> None:
    """Have the next program's addresses not be random, as setarch -R does."""
    if ctypes.CDLL(None).personality(NO_RANDOM_ADDRESSES) < 0:
        os._exit(99)


def goes_on(lab: Lab, running: Running, checkpoint: Checkpoint, where: tuple[int, int]) -> None:
    """Restore it, see its vDSO in its old place, and the clock by it, to the end."""
    seen = len(running.lines())
    restored = lab.restore(checkpoint)
    assert vdso(restored.pid) == where
    wait_until(lambda: len(running.lines()) > seen + 1, "two more lines")
    assert "wrong" not in running.text()
    restored.kill()
    assert lab.finish(restored) == -signal.SIGKILL


@pytest.mark.parametrize("random", [True, False], ids=["random", "fixed"])
def test_the_vdso_is_put_where_the_captured_one_was(
    lab: Lab, programs: Path, moves: list[tuple[int, int]], *, random: bool
) -> None:
    """Every fresh process has it elsewhere; pointers to it are in libc's memory, and in `setarch -R`'s too."""
    if "0" in Path("/proc/sys/kernel/randomize_va_space").read_text():
        pytest.skip("addresses are not random here")
    program: list[str | Path] = [build(programs, "kernel_pages"), "vdso", lab.folder / "flag"]
    running = lab.start(program) if random else lab.start(program, preexec_fn=fixed)
    running.wait_for("round")
    where = vdso(running.pid)
    with lab.take(running) as checkpoint:
        for _ in range(8):
            goes_on(lab, running, checkpoint, where)
    assert len(moves) == 8
    assert len({there for _, there in moves}) == 1
    assert sum(here != there for here, there in moves) >= 6
    assert len({here for here, _ in moves}) >= 6
