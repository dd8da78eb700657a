"""A restore is done by a child that somebody else has confined, under that confinement and no other."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from process_lab import Lab, wait_until

from sandlock_checkpoint import Area, Checkpoint, Ids, Location, Restored, RestoreError, Run, restore
from sandlock_sys import landlock, prctl
from sandlock_sys.proc import read_children

pytestmark = [pytest.mark.needs("ptrace"), pytest.mark.needs("landlock", level=1)]

READING = 1 << 0 | 1 << 2 | 1 << 3  # LANDLOCK_ACCESS_FS_EXECUTE, READ_FILE, READ_DIR
WRITING = 1 << 1  # LANDLOCK_ACCESS_FS_WRITE_FILE


def confined(*granted: Path | str) -> Callable[[int, int], int]:
    """Return a `spawn` whose child may read the system and `granted`, and write only `granted`."""

    def spawn(program: int, channel: int) -> int:
        child = os.fork()
        if child:
            return child
        try:
            rights = landlock.create_ruleset(READING | WRITING)
            system = [(path, READING) for path in (b"/usr", b"/lib", b"/lib64", b"/etc", b"/opt", b"/proc", b"/root")]
            own = [(os.fsencode(path), READING | WRITING) for path in (*granted, "/dev/null")]
            landlock.add_paths(rights, [row for row in system if os.path.exists(row[0])] + own)
            prctl.set_no_new_privs()
            landlock.restrict_self(rights)
            os.set_inheritable(channel, True)
            os.execv(f"/proc/self/fd/{program}", ["stub"])  # noqa: S606 - the program that a spawn is asked to start
        finally:
            os._exit(99)

    return spawn


READER = """
import os, sys, time
file = open(sys.argv[1]); print("ready", flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
try:
    open("/etc/hostname-of-nobody", "w")
except OSError as error:
    print("refused", error.errno, flush=True)
print(file.read(), flush=True)
"""


@pytest.fixture
def image(lab: Lab) -> Checkpoint:
    """A program that has a file of the folder open, captured and killed."""
    (lab.folder / "text").write_text("mine")
    running = lab.python(READER, str(lab.folder / "text"), str(lab.folder / "flag"))
    running.wait_for("ready")
    return lab.take(running)


def test_a_file_that_the_policy_denies_is_not_opened(lab: Lab, image: Checkpoint) -> None:
    """CK-07: the confined child opens it, so an image gives nobody what the restorer's policy does not."""
    (lab.folder / "flag").touch()
    with pytest.raises(RestoreError, match=f"text.*{os.strerror(errno.EACCES)}|output1.*{os.strerror(errno.EACCES)}"):
        restore(image, confined())
    restored: Restored = restore(image, confined(lab.folder))  # and with the grant it runs
    assert lab.finish(restored) == 0
    assert (lab.folder / "output1").read_text().splitlines() == ["ready", f"refused {errno.EACCES}", "mine"]


def test_a_child_that_is_no_stub_is_refused(lab: Lab, image: Checkpoint) -> None:
    """Whatever else a `spawn` returns is not taken over."""

    def spawn(program: int, channel: int) -> int:
        child = os.fork()
        if not child:
            os._exit(3)
        return child

    with pytest.raises(RestoreError, match="before it executed the stub"):
        restore(image, spawn)


def test_nothing_is_left_of_a_failed_restore(lab: Lab, image: Checkpoint) -> None:
    """CK-14: whatever had been made is killed, and waited for."""
    made: list[int] = []
    spawn = confined()

    def noting(program: int, channel: int) -> int:
        made.append(spawn(program, channel))
        return made[-1]

    with pytest.raises(RestoreError):
        restore(image, noting)
    (pid,) = made
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@dataclasses.dataclass
class DeadlySource:
    """Notes the restorer's children in `made`, and kills the restorer, when the first page is asked for."""

    made: Path

    def read(self, area: Area, runs: Sequence[Run], into: memoryview) -> None:
        self.made.write_text(" ".join(str(pid) for pid in read_children(os.getpid())))
        os.kill(os.getpid(), signal.SIGKILL)

    def locate(self, area: Area, run: Run) -> Location | None:
        return None

    def close(self) -> None:
        return


@pytest.mark.parametrize("ids", [Ids.PREFER, Ids.NEW])
def test_a_killed_restorer_takes_what_it_was_making_with_it(lab: Lab, image: Checkpoint, ids: Ids) -> None:
    """CK-14: half a process never runs, in whichever namespace it was made."""
    made = lab.folder / "made"
    child = os.fork()
    if not child:
        try:
            restore(dataclasses.replace(image, source=DeadlySource(made)), ids=ids)
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (pid,) = made.read_text().split()
    wait_until(lambda: program_of(pid) == "", f"the end of process {pid}")
    wait_until(lambda: not any("sandlock-restore" in program_of(name) for name in os.listdir("/proc")), "no stub")


def program_of(pid: str) -> str:
    """The program file of a process; "" when it has ended, is a zombie, or another user's."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""
