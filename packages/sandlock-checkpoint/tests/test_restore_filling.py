"""Contents are written while the next are read: all of them, and none after an error."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from process_lab import Lab

from sandlock_checkpoint import ImageError, RestoreError
from sandlock_checkpoint.memory import Area, Mapping, MappingKind, Run
from sandlock_checkpoint.restore.filling import Filler
from sandlock_sys import procmem

pytestmark = pytest.mark.needs("ptrace")

PAGE, PAGES = 4096, 24
HOLDS = f"""
import ctypes, mmap, signal
memory = mmap.mmap(-1, {PAGE * PAGES}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
print("ready")
signal.pause()
"""
AREA = Area(0, 0)


class Source:
    """Every page holds its number; the one numbered `broken` is not what was saved."""

    def __init__(self, broken: int = -1) -> None:
        self.broken = broken

    def read(self, _: Area, runs: Sequence[Run], into: memoryview) -> None:
        pages = [run.offset // PAGE + index for run in runs for index in range(run.length // PAGE)]
        if self.broken in pages:
            raise ImageError("memory/0.bin", f"blocks[{self.broken}]", "its checksum does not fit")
        into[:] = b"".join(bytes([page]) * PAGE for page in pages)

    def locate(self, _area: Area, _run: Run) -> None:
        return None

    def close(self) -> None:
        raise AssertionError("whoever fills does not own it")


@pytest.fixture
def held(lab: Lab) -> Iterator[tuple[Any, Mapping]]:
    running = lab.python(HOLDS)
    running.wait_for("ready")
    start = int(running.lines()[0])
    mapping = Mapping(start, start + PAGE * PAGES, MappingKind.ANONYMOUS, 3, shared=False, offset=0, name=b"")
    yield SimpleNamespace(pid=running.pid), mapping
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sandlock-fill")]


def pages_of(target: Any, mapping: Mapping) -> list[int]:
    found = bytearray(mapping.size)
    assert procmem.read_ranges(target.pid, [(mapping.start, mapping.size)], found).stop is None
    return [found[page * PAGE] if found.count(found[page * PAGE], page * PAGE, (page + 1) * PAGE) == PAGE else -1
            for page in range(PAGES)]  # fmt: skip


@pytest.mark.parametrize("piece", [PAGE, 3 * PAGE, 100 * PAGE])
def test_every_run_is_written_and_nothing_between(held: tuple[Any, Mapping], piece: int) -> None:
    target, mapping = held
    runs = [Run(PAGE, 10 * PAGE), Run(13 * PAGE, PAGE), Run(15 * PAGE, 9 * PAGE)]
    with closing(Filler(Source(), piece)) as filler:
        filler.fill(target, AREA, mapping, runs)
    assert pages_of(target, mapping) == [page if page not in {0, 11, 12, 14} else 0 for page in range(PAGES)]


def test_what_is_not_what_was_saved_is_never_written(held: tuple[Any, Mapping]) -> None:
    target, mapping = held
    with closing(Filler(Source(broken=5), PAGE)) as filler, pytest.raises(ImageError, match="checksum"):
        filler.fill(target, AREA, mapping, [Run(0, PAGES * PAGE)])
    assert pages_of(target, mapping) == [page if page < 5 else 0 for page in range(PAGES)]


def test_a_process_that_cannot_be_written_to_is_told(held: tuple[Any, Mapping]) -> None:
    target, mapping = held
    nowhere = Mapping(PAGE, 9 * PAGE, MappingKind.ANONYMOUS, 3, shared=False, offset=0, name=b"")
    with closing(Filler(Source(), PAGE)) as filler:
        with pytest.raises(RestoreError, match="writing failed"):
            filler.fill(target, AREA, nowhere, [Run(0, 8 * PAGE)])
        filler.fill(target, AREA, mapping, [Run(0, PAGE * PAGES)])  # what failed is over
    assert pages_of(target, mapping) == list(range(PAGES))
