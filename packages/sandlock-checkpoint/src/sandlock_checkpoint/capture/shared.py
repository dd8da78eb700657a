"""Collect the shared memory of all captured processes: anonymous, memfd, and files that have lost their names."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from errno import ENXIO

from sandlock_checkpoint.capture.pages import merged
from sandlock_checkpoint.inject import Injector, Scratch
from sandlock_checkpoint.memory import Run, SharedMemory
from sandlock_sys import memfd
from sandlock_sys.proc import Mapping as Line

__all__ = ["SharedObject", "SharedObjects"]

_MINCORE_PAGES = 1 << 14


@dataclass
class SharedObject:
    """One piece of shared memory, while it is captured.

    Attributes:
        key: device and inode of what is behind it.
        kind: as in `SharedMemory`.
        name: as in `SharedMemory`.
        fd: an open file of it, that this object owns, or -1 when nobody gives one.
        views: where it is mapped: (pid, first address, offset in the object, length).
        swapped: some of it is in swap space, where mincore(2) does not see it.
        memory: the description, made by `SharedObjects.describe`.

    """

    key: tuple[int, int]
    kind: str
    name: bytes
    fd: int = -1
    views: list[tuple[int, int, int, int]] = field(default_factory=list)
    swapped: bool = False
    memory: SharedMemory | None = None


class SharedObjects:
    """Shared memory by device and inode; `close` it."""

    def __init__(self) -> None:
        self.objects: list[SharedObject] = []
        self._by_key: dict[tuple[int, int], int] = {}

    def close(self) -> None:
        """Close the files."""
        for found in self.objects:
            if found.fd >= 0:
                os.close(found.fd)
                found.fd = -1

    def of_mapping(self, pid: int, line: Line, *, swapped: bool) -> int:
        """Return the number of the object behind a mapping."""
        key = (os.makedev(*line.device), line.inode)
        if line.name.startswith(b"/memfd:"):
            number = self._number(key, "memfd", line.name.removeprefix(b"/memfd:"))
        elif line.name == b"/dev/zero":
            number = self._number(key, "anonymous", b"")
        else:
            number = self._number(key, "deleted", line.name)
        found = self.objects[number]
        found.views.append((pid, line.start, line.offset, line.size))
        found.swapped |= swapped
        if found.fd < 0:
            # Needs CAP_CHECKPOINT_RESTORE; whoever lacks it reads the memory through the mapping.
            with contextlib.suppress(OSError):
                found.fd = os.open(f"/proc/{pid}/map_files/{line.start:x}-{line.end:x}", os.O_RDONLY | os.O_CLOEXEC)
        return number

    def of_file(self, pid: int, fd: int, kind: str, name: bytes) -> int:
        """Return the number of the object behind descriptor `fd` of a process."""
        facts = os.stat(f"/proc/{pid}/fd/{fd}")
        number = self._number((facts.st_dev, facts.st_ino), kind, name)
        found = self.objects[number]
        if found.fd < 0:
            # Opened again, so that reading moves nobody's offset. It may be open for writing only: then the link
            # refuses nothing, the permissions of the file count.
            found.fd = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        return number

    def _number(self, key: tuple[int, int], kind: str, name: bytes) -> int:
        if key not in self._by_key:
            self._by_key[key] = len(self.objects)
            self.objects.append(SharedObject(key, kind, name))
        return self._by_key[key]

    def describe(self, injectors: dict[int, tuple[Injector, Scratch]]) -> tuple[SharedMemory, ...]:
        """Return all objects, with the runs that have contents.

        Arguments:
            injectors: for each process, an entered injector of its main thread and scratch memory of a page or more, to
                ask for what no file gives.

        """
        for found in self.objects:
            if found.fd >= 0:
                size = os.fstat(found.fd).st_size
                runs = _file_runs(found.fd, size)
            else:
                size = max(offset + length for _, _, offset, length in found.views)
                runs = (Run(0, size),) if found.swapped else _mapped_runs(found, injectors)
            seals = 0
            if found.kind == "memfd" and found.fd >= 0:
                seals = memfd.get_seals(found.fd)
            found.memory = SharedMemory(size, runs, found.kind, found.name, seals)
        return tuple(found.memory for found in self.objects if found.memory is not None)


def _file_runs(fd: int, size: int) -> tuple[Run, ...]:
    """Return what of a file is not a hole, in whole pages."""
    page = os.sysconf("SC_PAGE_SIZE")
    runs = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == ENXIO:  # nothing but a hole up to the end
                break
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        first, last = start // page * page, -(-at // page) * page
        runs.append(Run(first, last - first))
    return merged(runs)


def _mapped_runs(found: SharedObject, injectors: dict[int, tuple[Injector, Scratch]]) -> tuple[Run, ...]:
    """Return the pages that exist, as mincore(2) says: looking at a page that is not there would make it."""
    page = os.sysconf("SC_PAGE_SIZE")
    there: set[int] = set()
    for pid, start, offset, length in found.views:
        injector, scratch = injectors[pid]
        step = min(scratch.size, _MINCORE_PAGES) * page
        for part in range(0, length, step):
            size = min(step, length - part)
            injector.call("mincore", start + part, size, scratch.address)
            answers = scratch.read(size // page)
            there.update((offset + part) // page + at for at, answer in enumerate(answers) if answer & 1)
    return merged(Run(number * page, page) for number in sorted(there))
