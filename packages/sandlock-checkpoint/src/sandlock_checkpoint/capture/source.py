"""Read memory from stopped processes: the `MemorySource` of a live checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandlock_checkpoint.capture.shared import SharedObject, SharedObjects
from sandlock_checkpoint.capture.stop import StoppedProcess
from sandlock_checkpoint.errors import CaptureError
from sandlock_checkpoint.memory import Area, Location, Run
from sandlock_checkpoint.terms import Leave
from sandlock_sys import procmem
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from sandlock_checkpoint.model import ProcessInfo

__all__ = ["LiveSource"]


@dataclass
class LiveSource:
    """Reads what stopped processes hold, and lets them go when it is closed.

    Attributes:
        stopped: the processes, in the order of the checkpoint (zombies are not among them).
        pids: of each process of the checkpoint, the pid as the caller sees it.
        infos: their descriptions.
        shared: the shared memory.
        leave: what becomes of them.

    """

    stopped: list[StoppedProcess]
    pids: list[int]
    infos: tuple[ProcessInfo, ...]
    shared: SharedObjects
    leave: Leave

    def read(self, area: Area, runs: Sequence[Run], into: memoryview) -> None:
        """Fill `into` with the bytes of `runs`; see `MemorySource`."""
        if not self.stopped:
            raise CaptureError(self.pids[0], "it was let go already, and its memory was not read before")
        if area.process < 0:
            _read_object(self.shared.objects[area.number], runs, into)
            return
        mapping = self.infos[area.process].mappings[area.number]
        _read_private(self.pids[area.process], mapping.start, runs, into)

    def locate(self, area: Area, run: Run) -> Location | None:
        """Return None: memory that is alive has no file."""
        return None

    def spare(self) -> None:
        """Let them run on, whatever else was wanted, when this is closed."""
        self.leave = Leave.RUNNING

    def close(self) -> None:
        """Let the processes go."""
        stopped, self.stopped = self.stopped, []
        try:
            for process in reversed(stopped):  # children first: a parent must not see one that runs before it may
                process.release(self.leave)
        finally:
            self.shared.close()


def _read_private(pid: int, start: int, runs: Sequence[Run], into: memoryview) -> None:
    ranges = [(start + run.offset, run.length) for run in runs]
    done = 0
    transfer = procmem.read_ranges(pid, ranges, into)
    if transfer.stop is None:
        return
    if transfer.stop.errno != 14:  # EFAULT: pages that the process itself may not read, which a tracer still can
        raise CaptureError(pid, f"its memory at {transfer.stop.address:#x} cannot be read: errno {transfer.stop.errno}")
    memory = procmem.open_memory(pid)
    try:
        for address, length in ranges:
            _peek_into(memory, address, into[done : done + length])
            done += length
    except SyscallError as error:
        raise CaptureError(pid, f"its memory cannot be read: {error}") from error
    finally:
        os.close(memory)


def _peek_into(memory: int, address: int, into: memoryview) -> None:
    done = 0
    while done < len(into):
        try:
            count = os.preadv(memory, [into[done:]], address + done)
        except OSError as error:
            raise SyscallError("pread", error.errno or 5, f"/proc/PID/mem at {address + done:#x}") from error
        if not count:
            raise SyscallError("pread", 5, f"/proc/PID/mem at {address + done:#x}: the process is gone")
        done += count


def _read_object(found: SharedObject, runs: Sequence[Run], into: memoryview) -> None:
    done = 0
    for run in runs:
        part = into[done : done + run.length]
        done += run.length
        if found.fd >= 0:
            _read_file(found.fd, run.offset, part)
        else:
            _read_views(found, run, part)


def _read_file(fd: int, offset: int, into: memoryview) -> None:
    got = 0
    while got < len(into):
        count = os.preadv(fd, [into[got:]], offset + got)
        if not count:
            break
        got += count
    # The file may end inside its last page; what the page holds behind that end are zeros.
    into[got:] = bytes(len(into) - got)


def _read_views(found: SharedObject, run: Run, into: memoryview) -> None:
    """Read a run through the mappings that show it, piece by piece."""
    at = run.offset
    while at < run.offset + run.length:
        for pid, start, offset, length in found.views:
            if offset <= at < offset + length:
                end = min(run.offset + run.length, offset + length)
                _read_private(pid, start - offset, (Run(at, end - at),), into[at - run.offset : end - run.offset])
                at = end
                break
        else:
            raise CaptureError(found.views[0][0], f"no mapping shows its shared memory at offset {at:#x}")
