"""Write the contents of mappings into a process: what comes next is read and checked while a piece is written."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from sandlock_checkpoint.errors import RestoreError
from sandlock_checkpoint.memory import Area, Mapping, MemorySource, Run
from sandlock_checkpoint.restore.huge import HugeMemory
from sandlock_checkpoint.restore.mappings import words_of
from sandlock_checkpoint.restore.plan import first_prot
from sandlock_checkpoint.restore.target import Target
from sandlock_sys import procmem
from sandlock_sys.errors import SyscallError

__all__ = ["Filler", "chunks"]

_PIECE = 4 << 20
_PIECES = 4  # one is read while others wait to be written: neither side waits for the other's last block
_AHEAD = 64 << 20  # made huge at once: a call makes the kernel wait for all CPUs
_WRITE = 2  # PROT_WRITE


class Filler:
    """Fills the mappings of one process after the other, from one source; to be closed.

    Arguments:
        source: of the checkpoint.
        piece: bytes that are read at a time.

    """

    def __init__(self, source: MemorySource, piece: int = _PIECE) -> None:
        self._source = source
        self._pieces = [memoryview(bytearray(piece)) for _ in range(_PIECES)]
        self._writer = ThreadPoolExecutor(1, "sandlock-fill")
        self._huge = HugeMemory()

    def close(self) -> None:
        """Let the writing thread end."""
        self._writer.shutdown()

    def fill(self, target: Target, area: Area, mapping: Mapping, runs: Sequence[Run]) -> None:
        """Write the contents of these runs of a private mapping; nothing is being written when this returns or raises.

        Raises:
            ImageError: what was to be written is not what was saved.
            RestoreError: the process cannot be written to.

        """
        try:
            if first_prot(mapping) & _WRITE:
                self._write(target, area, mapping, runs)
            else:
                self._poke(target, area, mapping, runs)
        except SyscallError as error:
            raise RestoreError(words_of(mapping), str(error)) from error

    def _write(self, target: Target, area: Area, mapping: Mapping, runs: Sequence[Run]) -> None:
        under_way: deque[Future[procmem.Transfer]] = deque()
        try:
            for number, batch in enumerate(self._batches(target, mapping, runs)):
                if len(under_way) == len(self._pieces):
                    _check(under_way.popleft(), mapping)
                piece = self._read(area, batch, self._pieces[number % len(self._pieces)])
                under_way.append(self._writer.submit(procmem.write_ranges, target.pid, _places(mapping, batch), piece))
            while under_way:
                _check(under_way.popleft(), mapping)
        finally:
            wait(under_way)

    def _batches(self, target: Target, mapping: Mapping, runs: Sequence[Run]) -> Iterator[list[Run]]:
        """Yield the runs in lists that fit into a piece, their pages made huge where that can be done."""
        for several in chunks(runs, _AHEAD):
            self._huge.prepare(target, mapping, several)
            yield from chunks(several, len(self._pieces[0]))

    def _poke(self, target: Target, area: Area, mapping: Mapping, runs: Sequence[Run]) -> None:
        """Write to pages that the process itself may not write, such as relocated ones: only its tracer may."""
        memory = procmem.open_memory(target.pid, write=True)
        try:
            for batch in chunks(runs, len(self._pieces[0])):
                piece = self._read(area, batch, self._pieces[0])
                done = 0
                for address, length in _places(mapping, batch):
                    procmem.poke(memory, address, bytes(piece[done : done + length]))
                    done += length
        finally:
            os.close(memory)

    def _read(self, area: Area, batch: Sequence[Run], into: memoryview) -> memoryview:
        piece = into[: sum(run.length for run in batch)]
        self._source.read(area, batch, piece)
        return piece


def _places(mapping: Mapping, batch: Sequence[Run]) -> list[tuple[int, int]]:
    return [(mapping.start + run.offset, run.length) for run in batch]


def _check(writing: Future[procmem.Transfer], mapping: Mapping) -> None:
    """Wait until a piece is written."""
    transfer = writing.result()
    if transfer.stop is not None:
        raise RestoreError(words_of(mapping), f"writing failed: errno {transfer.stop.errno}")


def chunks(runs: Sequence[Run], limit: int) -> Iterator[list[Run]]:
    """Yield the runs in lists of at most `limit` bytes, cutting those that are longer."""
    batch: list[Run] = []
    room = limit
    for run in runs:
        offset, left = run
        while left:
            part = min(left, room)
            batch.append(Run(offset, part))
            offset, left, room = offset + part, left - part, room - part
            if not room:
                yield batch
                batch, room = [], limit
    if batch:
        yield batch
