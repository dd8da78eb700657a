"""Page contents from a checkpoint's source to the data files of a new image, in a fixed amount of memory.

One thread (a tracer has only one) reads blocks into a ring of buffers; others write or compress them. A process stays
stopped while its memory is read, and a checksum costs more time than a copy: only such are made meanwhile as CPUs have
time for that neither read nor write, at the lowest priority, and all others when the source has been closed, from the
page cache. Data that would not stay there has all of them made at once.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from sandlock_checkpoint.image.compress import Compressor
from sandlock_checkpoint.image.data_file import read_exactly
from sandlock_checkpoint.image.format import BLOCK, RAW, SPARSE, Contents, FileEntry, Inherited
from sandlock_checkpoint.image.huge import HugePages
from sandlock_checkpoint.image.layout import Stream, choose_layout, data_size, merge, total
from sandlock_checkpoint.image.parent import ParentPages
from sandlock_checkpoint.image.publish import NewImage
from sandlock_checkpoint.memory import Area, MemorySource, Run

__all__ = ["PageWriter", "Progress"]

Progress = Callable[[int, int], object]
"""Is told how many bytes of how many are done."""

_SLOTS = 16  # buffers of one block each
_ZEROS = bytes(BLOCK)
_LAST = 19  # nice(2): of the thread alone


@dataclass(slots=True)
class _File:
    """A data file that is being written: `waiting` counts what other threads have still to do for it."""

    area: Area
    name: str
    layout: str
    runs: list[Run]
    digests: list[bytes | None]
    stored: list[int]
    end: int = 0  # of the frames that are written
    fd: int = -1
    waiting: int = 0
    complete: bool = False
    inherited: tuple[Inherited, ...] = ()
    planned: Sequence[Run] = ()  # what is sure to be written, each byte where it stands in its area


@dataclass(frozen=True, slots=True)
class _Block:
    """Block `number` of a file, in `slot` until other threads have done with it what there is to do."""

    file: _File
    number: int
    slot: bytearray
    digest: Future[bytes] | None
    written: Future[None] | None
    frame: Future[bytes] | None


class PageWriter:
    """Writes the areas of one checkpoint, each once.

    A context manager: leaving waits for its threads and closes its files.
    """

    def __init__(
        self,
        image: NewImage,
        source: MemorySource,
        *,
        compression: str = RAW,
        threads: int = 2,
        checksum_now: bool = False,
        parent: ParentPages | None = None,
        progress: Progress | None = None,
        size: int = 0,
    ) -> None:
        """Begin.

        Arguments:
            image: where to.
            source: where from; used by the thread that calls `write`.
            compression: RAW or ZSTD.
            threads: how many write, compress and make checksums.
            checksum_now: make checksums before the source is closed.
            parent: pages that need not be written again.
            progress: called by the thread that writes.
            size: bytes of all runs, for `progress`.

        """
        self._image = image
        self._source = source
        self._compressors = None if compression == RAW else deque(Compressor() for _ in range(threads))
        self._now = checksum_now
        self._parent = parent
        self._progress = progress
        self._size = size
        self._done = 0
        self._free = [bytearray(BLOCK) for _ in range(_SLOTS)]
        self._pending: deque[_Block] = deque()
        self._files: list[_File] = []
        self._at_leisure = threads - 1  # checksums at a time
        self._leisure = ThreadPoolExecutor(max(1, threads - 1), "sandlock-sum", initializer=os.nice, initargs=(_LAST,))
        self._huge = HugePages()
        self._pool = ThreadPoolExecutor(threads, "sandlock-save")
        # One thread: the kernel lets only one write to a file anyway.
        self._writing = ThreadPoolExecutor(1, "sandlock-write")
        self._syncer = ThreadPoolExecutor(1, "sandlock-sync")

    def write(self, area: Area, runs: Sequence[Run], name: str) -> None:
        """Write the contents of an area: `runs`, not empty, to the file `name` of the image.

        Raises:
            CaptureError: the source's.
            OSError: the file could not be written.

        """
        plan = list(self._parent.plan(area, runs)) if self._parent else [(runs, False)]
        planned = [run for batch, _ in plan for run in batch]
        layout = choose_layout(planned or runs, compressed=self._compressors is not None)
        self._done += total(runs) - total(planned)
        sure = layout == SPARSE and not self._parent
        file = _File(area, name, layout, [], [], [], planned=runs if sure else ())
        self._files.append(file)
        slot, fill = self._slot(), 0
        for batch, compare in plan:
            pieces: list[Run] = []
            wanted = 0  # bytes of `pieces`
            for run in batch:
                offset, rest = run
                while rest:
                    count = min(rest, BLOCK - fill - wanted)
                    pieces.append(Run(offset, count))
                    offset, rest, wanted = offset + count, rest - count, wanted + count
                    if fill + wanted == BLOCK:
                        fill = self._take(file, pieces, slot, fill, compare=compare)
                        pieces, wanted = [], 0
                    if fill == BLOCK:
                        self._send(file, slot, fill)
                        slot, fill = self._slot(), 0
            if pieces:
                fill = self._take(file, pieces, slot, fill, compare=compare)
            if fill == BLOCK:
                self._send(file, slot, fill)
                slot, fill = self._slot(), 0
        if fill:
            self._send(file, slot, fill)
        else:
            self._free.append(slot)
        if self._parent:
            file.inherited = self._parent.taken(area)
        file.complete = True
        self._close_complete(file)

    def finish(self) -> tuple[dict[Area, Contents], list[FileEntry]]:
        """Make the missing checksums, and wait until everything is on the disk.

        The source is not used any more.
        """
        while self._pending:
            self._settle()
        contents: dict[Area, Contents] = {}
        entries = []
        for file in self._files:
            if file.runs:
                file.fd = self._image.reopen(file.name)
                synced = self._syncer.submit(os.fsync, file.fd)  # the disk works while checksums are made
                self._checksums(file)
                synced.result()
                os.close(file.fd)
                file.fd = -1
                digest = hashlib.sha256(b"".join(one for one in file.digests if one)).hexdigest()
                entries.append(FileEntry(file.name, data_size(file.runs, file.layout, file.stored), digest))
            blocks = tuple(one.hex() for one in file.digests if one)
            contents[file.area] = Contents(
                file.name.partition("/")[2] if file.runs else "", file.layout, tuple(merge(file.runs)), blocks,
                tuple(file.stored), file.inherited,
            )  # fmt: skip
        return contents, entries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._leisure.shutdown(cancel_futures=True)
        self._writing.shutdown(cancel_futures=True)
        self._syncer.shutdown(cancel_futures=True)
        for file in self._files:
            if file.fd >= 0:
                os.close(file.fd)
                file.fd = -1

    def _slot(self) -> bytearray:
        while not self._free:
            self._settle()
        return self._free.pop()

    def _take(self, file: _File, pieces: list[Run], slot: bytearray, fill: int, *, compare: bool) -> int:
        """Read `pieces` behind what `slot` holds; return how far it holds what must be written."""
        count = total(pieces)
        self._source.read(file.area, pieces, memoryview(slot)[fill : fill + count])
        self._done += count
        if self._progress:
            self._progress(self._done, self._size)
        if compare and self._parent:
            pieces = self._parent.changed(file.area, pieces, slot, fill)
        file.runs += pieces
        return fill + total(pieces)

    def _send(self, file: _File, slot: bytearray, count: int) -> None:
        """Have the last `count` bytes of `file.runs`, which are in `slot`, written by another thread."""
        if file.fd < 0:
            file.fd = self._image.create(file.name)
        block = len(file.digests)
        file.digests.append(None)
        file.waiting += 1
        if self._compressors is not None:
            frame = self._pool.submit(_compress, self._compressors, slot, count)
            self._pending.append(_Block(file, block, slot, self._pool.submit(_digest, slot, count), None, frame))
            return
        pieces = _last(file.runs, count) if file.layout == SPARSE else [Run(block * BLOCK, count)]
        written = self._writing.submit(_write, file, pieces, slot, count, self._huge)
        busy = sum(1 for one in self._pending if one.digest is not None and not one.digest.done())
        digest: Future[bytes] | None = None
        if self._now:
            digest = self._pool.submit(_digest, slot, count)
        elif busy < self._at_leisure:
            digest = self._leisure.submit(_digest, slot, count)
        self._pending.append(_Block(file, block, slot, digest, written, None))

    def _settle(self) -> None:
        """Wait for the oldest block, and take its buffer back."""
        one = self._pending.popleft()
        file = one.file
        if one.written is not None:
            one.written.result()
        if one.frame is not None:
            frame = one.frame.result()
            _write_exactly(file.fd, memoryview(frame), file.end)
            file.stored.append(len(frame))
            file.end += len(frame)
        if one.digest is not None:
            file.digests[one.number] = one.digest.result()
        file.waiting -= 1
        self._free.append(one.slot)
        self._close_complete(file)

    def _close_complete(self, file: _File) -> None:
        """Give a file its size, and close it, when all of it is written: there may be more files than fds."""
        if file.complete and not file.waiting and file.fd >= 0:
            os.ftruncate(file.fd, data_size(file.runs, file.layout, file.stored))
            self._huge.forget(file.fd)
            os.close(file.fd)
            file.fd = -1

    def _checksums(self, file: _File) -> None:
        """Make the checksums that were put off, from what the file holds."""
        stream = Stream(merge(file.runs))
        jobs: deque[tuple[int, bytearray, Future[bytes]]] = deque()
        missing = [block for block, digest in enumerate(file.digests) if digest is None]
        for block in missing:
            if not self._free:
                self._note(file, jobs.popleft())
            size = stream.block_size(block)
            sparse = file.layout == SPARSE
            pieces = list(stream.pieces(block * BLOCK, size)) if sparse else [Run(block * BLOCK, size)]
            slot = self._free.pop()
            jobs.append((block, slot, self._pool.submit(_checksum, file, pieces, slot)))
        while jobs:
            self._note(file, jobs.popleft())

    def _note(self, file: _File, job: tuple[int, bytearray, Future[bytes]]) -> None:
        block, slot, digest = job
        file.digests[block] = digest.result()
        self._free.append(slot)


def _write(file: _File, pieces: list[Run], slot: bytearray, count: int, huge: HugePages) -> None:
    """Write the first bytes of `slot` to `pieces` of the file."""
    data = memoryview(slot)[:count]
    if slot.startswith(memoryview(_ZEROS)[:count]):  # a hole reads the same, and is checked the same
        return
    done = 0
    for place in merge(pieces):
        huge.prepare(file.fd, file.planned, place)
        _write_exactly(file.fd, data[done : done + place.length], place.offset)
        done += place.length


def _digest(slot: bytearray, count: int) -> bytes:
    return hashlib.sha256(memoryview(slot)[:count]).digest()


def _compress(compressors: deque[Compressor], slot: bytearray, count: int) -> bytes:
    """Return the first bytes of `slot` as one frame."""
    compressor = compressors.pop()  # there are as many as threads
    try:
        return compressor.compress(memoryview(slot)[:count])
    finally:
        compressors.append(compressor)


def _checksum(file: _File, pieces: list[Run], slot: bytearray) -> bytes:
    done = 0
    for offset, length in pieces:
        read_exactly(file.fd, memoryview(slot)[done : done + length], offset, file.name)
        done += length
    return hashlib.sha256(memoryview(slot)[:done]).digest()


def _write_exactly(fd: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        data = data[count:]
        offset += count


def _last(runs: list[Run], count: int) -> list[Run]:
    """Return the runs that hold the last `count` bytes of `runs`, whose end is where a block ends."""
    found = []
    for run in reversed(runs):
        if count <= 0:
            break
        found.append(run)
        count -= run.length
    return found[::-1]
