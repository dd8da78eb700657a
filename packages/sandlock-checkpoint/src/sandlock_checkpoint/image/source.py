"""The memory of a loaded checkpoint: areas read from the data files of an image and of its ancestors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.data_file import DataFile
from sandlock_checkpoint.image.folder import ImageFolder
from sandlock_checkpoint.image.format import BLOCK
from sandlock_checkpoint.image.layout import Stream, intersect, merge
from sandlock_checkpoint.memory import Area, Location, Run

__all__ = ["ImageSource", "Part", "covered"]

_MOST_OPEN = 64


class Part(NamedTuple):
    """Runs of an area whose bytes are in `file`, `shift` bytes further on in that file's area."""

    runs: tuple[Run, ...]
    shift: int
    file: DataFile


class _Range(NamedTuple):
    """Bytes of a file's stream that belong at `target` of the caller's memory."""

    file: DataFile
    start: int
    length: int
    target: int


class ImageSource:
    """Reads areas from the files of an image; every byte is checked against its digest on the way.

    Attributes:
        parts: for each area with contents, where they are.
        folders: the image's directory, then its ancestors'.

    """

    def __init__(self, folders: Sequence[ImageFolder], parts: Mapping[Area, Sequence[Part]], threads: int = 2) -> None:
        self.folders = list(folders)
        self.parts = parts
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._open: dict[DataFile, None] = {}  # in order of last use
        self._located: set[DataFile] = set()
        self._closed = False

    def read(self, area: Area, runs: Sequence[Run], into: memoryview) -> None:
        """Fill `into` with `runs`; see `MemorySource.read`."""
        into = into.cast("B")
        jobs = []
        for file, first, length, target in self._ranges(area, runs, len(into)):
            self._use(file)
            start = first
            while start < first + length:
                block = start // BLOCK
                count = min((block + 1) * BLOCK, first + length) - start
                piece = into[target + start - first :][:count]
                if count == file.stream.block_size(block):
                    jobs.append((file, block, piece))
                else:
                    file.read_part(start, piece)
                start += count
            if len(self._open) >= _MOST_OPEN:
                self._run(jobs)
                jobs = []
        self._run(jobs)

    def read_unchecked(self, area: Area, runs: Sequence[Run], into: memoryview) -> None:
        """Fill `into` as `read`, without a look at digests where that saves time: to compare, not to use."""
        for file, start, length, target in self._ranges(area, runs, len(into)):
            self._use(file)
            if file.compressed:
                self.read(area, runs, into)
                return
            file.read_unchecked(start, into[target : target + length])

    def locate(self, area: Area, run: Run) -> Location | None:
        """Return where `run` may be mapped from; see `MemorySource.locate`. Its digest is not looked at."""
        for runs, shift, file in self.parts.get(area, ()):
            if intersect(runs, [run]) == [run]:
                position = file.position(Run(run.offset + shift, run.length))
                if position < 0:
                    return None
                self._located.add(file)  # the fd has been given out: it stays open
                return Location(file.open(), position)
        return None

    def mappable(self, area: Area) -> Sequence[Run]:
        """Return what `locate` has an answer for; see `MappableSource`."""
        return sorted(run for part in self.parts.get(area, ()) if not part.file.compressed for run in part.runs)

    def close(self) -> None:
        """Close all files and directories."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        for file in (*self._open, *self._located):
            file.close()
            file.forget()
        for folder in self.folders:
            folder.close()
        self._open, self._located, self._closed = {}, set(), True

    def _ranges(self, area: Area, runs: Sequence[Run], size: int) -> list[_Range]:
        """Return where the bytes of `runs` are, in as few ranges as possible."""
        if self._closed:
            raise ImageError(f"area {area.process}:{area.number}", "", "the checkpoint has been closed")
        parts = self.parts.get(area, ())
        stream = Stream(runs)
        if stream.size != size:
            raise ValueError(f"the runs have {stream.size} bytes, the buffer {size}")
        ranges: list[_Range] = []
        for part in parts:
            for run in intersect(runs, part.runs):
                start = part.file.stream.find(Run(run.offset + part.shift, run.length))
                target = stream.find(run)
                last = ranges[-1] if ranges else None
                if last and last[0] is part.file and (start, target) == (last[1] + last[2], last[3] + last[2]):
                    ranges[-1] = last._replace(length=last.length + run.length)
                else:
                    ranges.append(_Range(part.file, start, run.length, target))
        if sum(one.length for one in ranges) != size or any(one.start < 0 for one in ranges):
            raise ImageError(f"area {area.process}:{area.number}", "", "has no contents in all of these runs")
        return ranges

    def _use(self, file: DataFile) -> None:
        """Open `file`, and close the one that was not used for longest when there are many."""
        file.open()
        if file in self._located:
            return
        self._open.pop(file, None)
        self._open[file] = None
        while len(self._open) > _MOST_OPEN:
            oldest = next(iter(self._open))
            del self._open[oldest]
            if oldest not in self._located:
                oldest.close()
            oldest.forget()

    def _run(self, jobs: list[tuple[DataFile, int, memoryview]]) -> None:
        """Read whole blocks, several at once."""
        if len(jobs) < 2 or self._threads < 2:
            for file, block, piece in jobs:
                file.read_block(block, piece)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "sandlock-image")
        for done in [self._pool.submit(file.read_block, block, piece) for file, block, piece in jobs]:
            done.result()


def covered(parts: Sequence[Part]) -> list[Run]:
    """Return all runs of the parts as one list."""
    return merge(sorted(run for part in parts for run in part.runs))
