"""A tracker finds every page that changed, however it changed: its images are byte for byte what full ones are."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from image_samples import contents_of
from process_lab import PROGRAMS, Lab

from sandlock_checkpoint import CaptureError, Checkpoint, Leave, Scope, Tracker, capture, image, load
from sandlock_checkpoint.capture import tracking
from sandlock_checkpoint.memory import Area
from sandlock_sys import procmem, userfaultfd
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import read_smaps
from sandlock_testkit.features import level

Page = tuple[Area, int]
STREAMS = {"fd:0", "fd:1", "fd:2"}
WAYS = ["write", "read", "protect", "discard", "huge", "replace", "move", "grow", "unmap", "new", "heap", "fork"]


needs_notes = pytest.mark.needs("write_notes")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where nothing waits for a disk, if there is such a place."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="sandlock-tracking-", dir="/dev/shm") as name:
        yield Path(name)


class Mutator:
    """A program that changes its memory as it is told."""

    def __init__(self, folder: Path, seed: int) -> None:
        file = folder / "mapped"
        file.write_bytes(os.urandom(1 << 16))
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "mutator.py"), str(seed), str(file)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._answer() == "ready"

    @property
    def pid(self) -> int:
        return self.process.pid

    def act(self, *ways: str) -> int:
        """Have it do these; return the address of its first memory."""
        assert self.process.stdin is not None
        self.process.stdin.write((" ".join(ways) + "\n").encode())
        self.process.stdin.flush()
        return int(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.kill()
        self.process.wait()


class Start(Protocol):
    def __call__(self, seed: int = 0) -> Mutator: ...


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    started: list[Mutator] = []

    def begin(seed: int = 0) -> Mutator:
        started.append(Mutator(folder, seed))
        return started[-1]

    yield begin
    for one in started:
        one.close()


def saved(
    tracker: Tracker | None, pid: int, path: Path, parent: Path | None = None, scope: Scope = Scope.PROCESS
) -> tuple[dict[Page, bytes], int]:
    """Capture and save, and see that the image has what the process had; return that, and how much went unread."""
    with capture(pid, tracker=tracker, allow=STREAMS | {"pipe"}, scope=scope) as checkpoint:
        expected = contents_of(checkpoint)
        checkpoint.save(path, parent=parent)
    with load(path) as loaded:
        found = contents_of(loaded)
    assert found.keys() == expected.keys()
    different = [page for page in expected if expected[page] != found[page]]
    assert not different, described(checkpoint, *different[0])
    unread = image.show(path)["unread_bytes"]
    assert isinstance(unread, int)
    return expected, unread


def described(checkpoint: Checkpoint, area: Area, offset: int) -> str:
    mapping = checkpoint.processes[area.process].mappings[area.number]
    return f"page {mapping.start + offset:x} of {mapping.start:x}-{mapping.end:x} {mapping.name!r} is another"


@pytest.mark.parametrize("seed", range(3))
def test_images_are_what_the_process_had_whatever_it_did(start: Start, folder: Path, seed: int) -> None:
    mutator, dice = start(seed), random.Random(seed)  # noqa: S311 - the same each time
    unread = 0
    with Tracker() as tracker:
        saved(tracker, mutator.pid, folder / "0")
        for number in range(1, 7):
            mutator.act(*dice.choices(WAYS, k=dice.randint(0, 12)))
            parent = folder / str(dice.randrange(max(0, number - 2), number))
            unread += saved(tracker, mutator.pid, folder / str(number), parent)[1]
    assert not level("write_notes") or unread > 8 << 20


@needs_notes
def test_each_way_to_change_memory_is_noticed(start: Start, folder: Path) -> None:
    mutator = start(7)
    with Tracker() as tracker:
        before, _ = saved(tracker, mutator.pid, folder / "0")
        for number, way in enumerate(WAYS, 1):
            mutator.act(*[way] * 3)
            after, unread = saved(tracker, mutator.pid, folder / str(number), folder / str(number - 1))
            assert before != after, way
            assert unread > 1 << 20
            assert len(after) * 4096 - unread < 16 << 20, way  # the interpreter's own; not everything
            before = after


@needs_notes
def test_what_another_process_writes_is_noticed(start: Start, folder: Path) -> None:
    mutator = start()
    address = mutator.act()
    with Tracker() as tracker:
        saved(tracker, mutator.pid, folder / "0")
        procmem.write(mutator.pid, address + 5, b"from outside")
        after, _ = saved(tracker, mutator.pid, folder / "1", folder / "0")
        memory = os.open(f"/proc/{mutator.pid}/mem", os.O_WRONLY)
        os.pwrite(memory, b"from farther", address + 4096)
        os.close(memory)
        later, _ = saved(tracker, mutator.pid, folder / "2", folder / "1")
    assert any(b"from outside" in data for data in after.values())
    assert any(b"from farther" in data for data in later.values())


@needs_notes
def test_a_missed_page_would_be_seen(start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the tests above: a tracker that looks away loses what was written."""
    mutator = start()
    monkeypatch.setattr(tracking.Moment, "changed_since", lambda *_: [])
    with Tracker() as tracker:
        saved(tracker, mutator.pid, folder / "0")
        mutator.act("write", "write")
        with pytest.raises(AssertionError, match="is another"):
            saved(tracker, mutator.pid, folder / "1", folder / "0")


@needs_notes
def test_a_save_that_fails_loses_nothing(start: Start, folder: Path) -> None:
    mutator = start()
    with Tracker() as tracker:
        saved(tracker, mutator.pid, folder / "0")
        mutator.act("write", "move")
        with capture(mutator.pid, tracker=tracker, allow=STREAMS):
            pass  # never saved: what it had seen must still count
        mutator.act("write", "new")
        assert saved(tracker, mutator.pid, folder / "1", folder / "0")[1] > 1 << 20


@needs_notes
def test_another_image_as_parent_is_compared(start: Start, folder: Path) -> None:
    mutator = start()
    saved(None, mutator.pid, folder / "before")
    mutator.act("write")
    with Tracker() as tracker:
        saved(tracker, mutator.pid, folder / "0")
        mutator.act("write")
        assert saved(tracker, mutator.pid, folder / "1", folder / "before")[1] == 0
        assert saved(tracker, mutator.pid, folder / "2", folder / "0")[1] > 1 << 20


@needs_notes
def test_a_tree_is_watched_and_new_members_are_read(start: Start, folder: Path, lab: Lab) -> None:
    running = lab.python(
        "import os, time\n"
        "data = bytearray(os.urandom(4 << 20))\n"
        "for number in range(3):\n"
        "    if not os.fork():\n"
        "        data[: 1 << 20] = os.urandom(1 << 20)\n"
        "        time.sleep(600)\n"
        "    print('child', number, flush=True)\n"
        "    time.sleep(1)\n"
        "time.sleep(600)\n"
    )
    running.wait_for("child 0")
    with Tracker() as tracker:
        saved(tracker, running.pid, folder / "0", scope=Scope.TREE)
        running.wait_for("child 2")
        after, unread = saved(tracker, running.pid, folder / "1", folder / "0", scope=Scope.TREE)
        assert tracker.untracked == {}
    assert {area.process for area, _ in after} >= {0, 1, 2, 3}
    assert unread > 6 << 20
    for child in children(running.pid):
        os.kill(child, 9)


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


@needs_notes
def test_another_program_is_not_the_one_that_was_watched(lab: Lab, folder: Path) -> None:
    running = lab.python(
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
        "print('first', flush=True)\n"
        "signal.sigwait({signal.SIGUSR1})\n"
        "second = 'import time; print(\"second\", flush=True); time.sleep(600)'\n"
        "os.execv(sys.executable, [sys.executable, '-c', second])"
    )
    running.wait_for("first")
    with Tracker() as tracker:
        saved(tracker, running.pid, folder / "0")
        os.kill(running.pid, signal.SIGUSR1)
        running.wait_for("second")
        assert saved(tracker, running.pid, folder / "1", folder / "0")[1] == 0
        assert saved(tracker, running.pid, folder / "2", folder / "1")[1] > 0


@needs_notes
def test_nothing_of_it_is_left_in_the_process(start: Start, folder: Path) -> None:
    mutator = start()
    descriptors = sorted(os.listdir(f"/proc/{mutator.pid}/fd"))
    mappings = [use.mapping for use in read_smaps(mutator.pid)]
    with Tracker() as tracker:
        saved(tracker, mutator.pid, folder / "0")
        assert sorted(os.listdir(f"/proc/{mutator.pid}/fd")) == descriptors
        assert any("uw" in use.flags for use in read_smaps(mutator.pid))
        with capture(mutator.pid, tracker=tracker, allow=STREAMS, leave=Leave.RUNNING) as checkpoint:
            assert not any("uw" in one.flags for one in checkpoint.processes[0].mappings)
        with pytest.raises(CaptureError, match="another tracker's"):
            capture(mutator.pid, allow=STREAMS)
    assert not any("uw" in use.flags for use in read_smaps(mutator.pid))
    assert [use.mapping for use in read_smaps(mutator.pid)] == mappings
    saved(None, mutator.pid, folder / "1")


def test_where_writes_are_not_noted_pages_are_compared(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> None:
        raise SyscallError("ioctl UFFDIO_API", 22, f"fd {fd}")

    monkeypatch.setattr(userfaultfd, "note_writes", refuse)
    mutator = start()
    descriptors = sorted(os.listdir(f"/proc/{mutator.pid}/fd"))
    with Tracker() as tracker:
        saved(tracker, mutator.pid, folder / "0")
        assert "kernel" in tracker.untracked[mutator.pid]
        mutator.act("write")
        assert saved(tracker, mutator.pid, folder / "1", folder / "0")[1] == 0
    inherited = image.show(folder / "1")["inherited_bytes"]
    assert isinstance(inherited, int)
    assert inherited > 1 << 20
    assert sorted(os.listdir(f"/proc/{mutator.pid}/fd")) == descriptors
