"""Memory and images that are written whole get huge pages; nothing is in them that was not, and none where unwanted."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from process_lab import Lab

from sandlock_checkpoint import load
from sandlock_checkpoint.huge_pace import HugePace
from sandlock_checkpoint.image import huge as image_huge
from sandlock_checkpoint.image.huge import HugePages
from sandlock_checkpoint.memory import Mapping, MappingKind, Run
from sandlock_checkpoint.restore import huge as restore_huge
from sandlock_checkpoint.restore.huge import HugeMemory
from sandlock_sys import procmem
from sandlock_sys.errors import SyscallError
from sandlock_sys.hugepages import huge_page_size, mode

SIZE = huge_page_size()
COLLAPSES = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 1)  # MADV_COLLAPSE
MIB = 1 << 20
# Prints the digest of its memory before and after the file in argv[1] is there; argv[2] is an advice, 0 for none.
PROGRAM = """
import hashlib, mmap, os, sys, time
memory = mmap.mmap(-1, 24 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
if int(sys.argv[2]):
    memory.madvise(int(sys.argv[2]))
for at in list(range(0, 11 << 20, 4096)) + list(range(13 << 20, 24 << 20, 4096)):
    memory[at : at + 8] = at.to_bytes(8, "little")
print(hashlib.sha256(memory).hexdigest())
print("ready")
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
print(hashlib.sha256(memory).hexdigest())
"""
NO_HUGE_PAGES = 15  # MADV_NOHUGEPAGE


class Clock:
    """Tells a time that stands still, but for what `takes` says each look costs."""

    def __init__(self) -> None:
        self.now, self.takes = 0.0, 0.0

    def __call__(self) -> float:
        self.now += self.takes
        return self.now


@pytest.fixture
def shm() -> Iterator[Path]:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no tmpfs to write to")
    with tempfile.TemporaryDirectory(prefix="sandlock-huge-", dir="/dev/shm") as name:
        yield Path(name)


def test_what_is_quick_is_taken_more_of_at_a_time_and_only_whole_pages() -> None:
    clock = Clock()
    parts = list(HugePace(2 * MIB).parts(MIB + 4096, 101 * MIB, clock))
    assert parts[0] == (2 * MIB, 4 * MIB)
    assert [end - start for start, end in parts] == [size * MIB for size in (2, 4, 8, 16, 16, 16, 16, 16, 4)]
    assert all(first[1] == second[0] for first, second in pairwise(parts))
    assert parts[-1][1] == 100 * MIB


def test_what_is_slow_is_left_alone_for_a_while_and_then_for_ever() -> None:
    pace, clock = HugePace(2 * MIB), Clock()
    clock.takes = 0.01
    assert [start // MIB for start, _ in pace.parts(0, 1 << 30, clock)] == [0, 34, 68, 102]
    assert pace.size == 0
    assert not list(pace.parts(0, 1 << 30, clock))


def test_what_was_slow_once_is_tried_again() -> None:
    pace, clock, seen = HugePace(2 * MIB), Clock(), []
    for start, _ in pace.parts(0, 80 * MIB, clock):
        seen.append(start // MIB)
        clock.takes = 0.01 if len(seen) == 1 else 0.0
        clock.now += clock.takes
    assert seen == [0, 34, 36, 40, 48, 64]
    assert pace.size


@pytest.mark.parametrize("area", [(0, 2 * MIB - 1), (1, 2 * MIB + 1), (5, 5), (3 * MIB, 5 * MIB)])
def test_no_page_is_made_that_is_not_written_whole(area: tuple[int, int]) -> None:
    assert not list(HugePace(2 * MIB).parts(*area, Clock()))


def always_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no part taken for slow: a host may have its guest's free memory, and each page takes long then."""
    monkeypatch.setattr("sandlock_checkpoint.huge_pace._SMALL_PAGE_S", 1.0)


@pytest.mark.skipif(not SIZE or mode() == "never", reason="this kernel has no huge pages, or may not use them")
def test_a_file_gets_them_where_it_is_written_and_holes_stay(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    always_quick(monkeypatch)
    runs = [Run(4096, 4 * SIZE), Run(9 * SIZE, 2 * SIZE), Run(20 * SIZE + 4096, SIZE)]
    pages = HugePages()
    fd = os.open(shm / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    for run in runs:
        pages.prepare(fd, runs, run)
    if not pages._pace.size:
        pytest.skip("this kernel makes none of files")
    assert os.fstat(fd).st_blocks * 512 == 5 * SIZE
    assert os.lseek(fd, 0, os.SEEK_DATA) == SIZE
    assert os.lseek(fd, 4 * SIZE, os.SEEK_DATA) == 9 * SIZE
    pages.forget(fd)
    os.close(fd)


def test_another_file_system_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refusing(*_: int) -> None:
        asked.append(1)
        raise SyscallError("madvise", 22, "")

    monkeypatch.setattr(image_huge, "collapse_file", refusing)
    monkeypatch.setattr(image_huge, "mode", lambda: "madvise")
    monkeypatch.setattr(image_huge, "huge_page_size", lambda: 2 * MIB)
    pages, runs = HugePages(), [Run(0, 64 * MIB)]
    with open(tmp_path / "file", "wb+") as file:
        for at in range(0, 64 * MIB, MIB):
            pages.prepare(file.fileno(), runs, Run(at, MIB))
    assert asked == [1]


class Mute:
    """A process that answers every call with success; what was asked of it."""

    def __init__(self) -> None:
        self.pid, self.asked = os.getpid(), []  # type: ignore[var-annotated]

    def errno(self, name: str, *arguments: int) -> int:
        self.asked.append((name, *arguments))
        return 0


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"flags": ("nh",)}, False),
        ({"flags": ("gd",)}, False),
        ({"prot": 1}, False),
        ({"shared": True}, False),
        ({"kind": MappingKind.FILE}, False),
    ],
    ids=["plain", "unwanted", "stack", "read-only", "shared", "file"],
)
def test_who_wants_none_gets_none(changes: dict[str, Any], wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {"kind": MappingKind.ANONYMOUS, "prot": 3, "shared": False, "offset": 0, "name": b""}
    mapping = Mapping(start=4 * MIB, end=8 * MIB, **(fields | changes))
    monkeypatch.setattr(procmem, "write_ranges", lambda *_: SimpleNamespace(stop=None))
    monkeypatch.setattr(restore_huge, "huge_page_size", lambda: 2 * MIB)
    for host, made in (("madvise", wanted), ("never", False), ("always", False)):
        monkeypatch.setattr(restore_huge, "mode", lambda host=host: host)
        target: Any = Mute()
        HugeMemory().prepare(target, mapping, [Run(0, 4 * MIB)])
        assert bool(target.asked) == made
        assert not made or target.asked[0] == ("madvise", 4 * MIB, 2 * MIB, 25)


@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("advice", [0, NO_HUGE_PAGES], ids=["plain", "unwanted"])
def test_memory_is_the_same_through_an_image_in_a_tmpfs(
    lab: Lab, shm: Path, advice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_quick(monkeypatch)
    flag = lab.folder / "flag"
    running = lab.python(PROGRAM, str(flag), str(advice))
    running.wait_for("ready")
    with lab.take(running) as checkpoint:
        checkpoint.save(shm / "image")
    with load(shm / "image") as loaded:
        (data,) = (file for file in (shm / "image").rglob("*.bin") if file.stat().st_size > 20 << 20)
        assert data.stat().st_blocks * 512 <= 24 << 20  # pages that nothing was written to are in no file
        restored = lab.restore(loaded)
    rollup = Path(f"/proc/{restored.pid}/smaps_rollup").read_text()
    huge = int(rollup.partition("AnonHugePages:")[2].split()[0])
    if mode() == "madvise" and SIZE and COLLAPSES:
        assert bool(huge) != bool(advice)
    flag.touch()
    assert lab.finish(restored) == 0
    first, *_, last = running.lines()
    content = bytearray(24 << 20)
    for at in [*range(0, 11 << 20, 4096), *range(13 << 20, 24 << 20, 4096)]:
        content[at : at + 8] = at.to_bytes(8, "little")
    assert first == last == hashlib.sha256(content).hexdigest()
