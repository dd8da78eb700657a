"""A program that is watched never gets the userfaultfd that watches it, nor one of its own."""

from __future__ import annotations

from errno import EMFILE
from pathlib import Path
from signal import SIGKILL
from types import SimpleNamespace
from typing import TYPE_CHECKING, Self

import pytest

from sandlock import PIPE, CaptureError, Process, Sandbox, Tracker
from sandlock_checkpoint.capture import tracking
from sandlock_notif import CONTINUE
from sandlock_notif.handlers.tracking import TrackingTable
from sandlock_runtime import capturing
from sandlock_sys import pidfd
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import read_maps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.needs("ptrace"),
    pytest.mark.needs("landlock", level=1),
    pytest.mark.needs("write_notes"),
    pytest.mark.needs("compiler"),
]

SOURCE = (Path(__file__).parent / "attacks/tracked.c").read_text()
TRIES = 12
ALLOWED = {"process", "shared_process", "shared_with_outsider"}  # what the attacks have that would not come back


@pytest.fixture
def attack(compile_c: Callable[..., Path]) -> Path:
    return compile_c(SOURCE)


class Attacked:
    """A sandbox in which the attack runs."""

    def __init__(self, program: Path, how: str, *, trackable: bool = True) -> None:
        self.sandbox = Sandbox(fs_readable=[str(program)], trackable=trackable)
        self.process: Process = self.sandbox.popen([str(program), how], stdin=PIPE, stdout=PIPE)
        self.asked()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.__exit__(None, None, None)

    def asked(self) -> str:
        """What the program says of itself: "won" or "nothing"."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()

    def watched(self, tries: int = TRIES) -> Iterator[bool]:
        """Have it watched anew, again and again; whether it was."""
        for _ in range(tries):
            with Tracker() as tracker, self.sandbox.checkpoint(tracker=tracker, allow=ALLOWED):
                watched = not tracker.untracked
            yield watched


@pytest.mark.parametrize("how", ["threads", "memory"])
def test_its_own_calls_are_refused_while_it_is_watched(attack: Path, how: str) -> None:
    with Attacked(attack, how) as attacked:
        assert all(attacked.watched())
        assert attacked.asked() == "nothing"


@pytest.mark.parametrize("how", ["threads", "memory"])
def test_a_supervisor_that_does_not_look_who_calls_is_deceived(
    attack: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the attacks above do call."""
    monkeypatch.setattr(TrackingTable, "_judge", lambda _table, _request: CONTINUE)
    with Attacked(attack, how) as attacked:
        assert any(attacked.asked() == "won" for _ in range(10_000))


def test_the_call_is_made_by_code_that_nobody_can_replace(attack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may write a file whose code is mapped would have the program's own code run while its call is let through."""
    places: list[tuple[int, int, int]] = []

    def getfd(process: int, remote: int) -> int:
        counter = int(Path(f"/proc/{attacked.process.pid}/syscall").read_text().split()[-1], 16)
        [kernel] = [one for one in read_maps(attacked.process.pid) if one.name == b"[vdso]"]
        places.append((kernel.start, counter, kernel.end))
        return pidfd.getfd(process, remote)

    with Attacked(attack, "threads") as attacked:
        monkeypatch.setattr(tracking, "pidfd", SimpleNamespace(open_pidfd=pidfd.open_pidfd, getfd=getfd))
        assert all(attacked.watched(2))
    assert len(places) == 2
    assert all(start <= counter < end for start, counter, end in places)


def test_whoever_does_not_stand_still_keeps_it_from_being_watched(attack: Path) -> None:
    """A process that is below nobody runs on, and may have the table in common in which the descriptor appears."""
    with Attacked(attack, "files") as attacked:
        assert not any(attacked.watched())
        assert attacked.asked() == "nothing"


@pytest.mark.parametrize(
    ("error", "lives"),
    [(SyscallError("pidfd_getfd", EMFILE), True), (KeyboardInterrupt(), False)],
    ids=["told", "torn"],
)
def test_who_could_run_on_with_the_descriptor_is_killed(
    attack: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, *, lives: bool
) -> None:
    """Where the kernel says that it fails, the descriptor is closed again, and all is well."""
    with Attacked(attack, "threads") as attacked:

        def fail(*_arguments: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(tracking, "pidfd", SimpleNamespace(open_pidfd=pidfd.open_pidfd, getfd=fail))
            if lives:
                assert not any(attacked.watched(1))
            else:
                with pytest.raises(KeyboardInterrupt):
                    next(attacked.watched(1))
        if lives:
            assert attacked.asked() == "nothing"
        else:
            assert attacked.process.wait(20).signal == SIGKILL


def test_a_table_in_common_with_who_runs_on_gives_it_away(attack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the descriptor is there for a moment."""
    monkeypatch.setattr(capturing, "_orphans", lambda _life: [])
    with Attacked(attack, "files") as attacked:
        try:
            wins = any(attacked.asked() == "won" for _ in attacked.watched(100))
        except CaptureError as error:  # the next capture sees that somebody has it before the program says so
            wins = "userfaultfd" in str(error)
    assert wins
