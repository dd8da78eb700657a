"""Lazy restore: map the pages of an image instead of copying them, so that a large process runs before they are read.

A page is read from the image's file when the process first touches it, and is the process's own as soon as it writes
to it. Nothing of the image can be changed that way. What this costs the process:

* Its memory is of a file now. What it gives back with madvise(MADV_DONTNEED) reads as it was in the image, where
  anonymous memory reads as zeros. Allocators rely on these zeros (jemalloc; glibc in arenas of threads; Go), and a
  process alone cannot be told whether it does; so a lazy restore has to be taken on by name (`DISCARD`).
* A page that cannot be read any more, because the disk fails or somebody has cut the image's file, ends it by SIGBUS.
* Digests are not looked at. `image.verify` does that before, for whoever does not trust the place.

Only what is worth it is mapped: long runs of private anonymous memory. All else is copied.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from sandlock_checkpoint.errors import RestoreError
from sandlock_checkpoint.image.layout import intersect, subtract
from sandlock_checkpoint.memory import Area, MappableSource, Mapping, MappingKind, MemorySource, Run
from sandlock_checkpoint.restore.channel import Channel
from sandlock_checkpoint.restore.plan import first_prot, map_flags
from sandlock_checkpoint.restore.target import Target
from sandlock_checkpoint.terms import Unsupported

__all__ = ["DISCARD", "LazyMapper"]

DISCARD = Unsupported(
    "discard",
    "discard",
    "memory that it gives back with madvise(MADV_DONTNEED) would read as it was in the image, and not as zeros, as "
    "jemalloc, Go and glibc's arenas of threads expect: restore without lazy, or allow it",
)
_SHORTEST = 1 << 18  # below that, copying costs less than a mapping and its faults
_MOST_FILES = 64  # of the image, for one process: each is a descriptor here and there meanwhile
_MOST = 4096  # mappings of one process, which may have 65530 (vm.max_map_count)
_FIXED, _FIXED_NOREPLACE, _ANONYMOUS = 0x10, 0x100000, 0x20  # MAP_*
_EXECUTE = 4
# VmFlags of mappings that must stay anonymous: grows down, locked, wiped in forks, merged with equal pages
_COPIED = frozenset({"gd", "lo", "wf", "mg"})


@dataclass
class LazyMapper:
    """Maps what can be mapped into one process.

    Attributes:
        target: the process; its mappings are made, and empty.
        source: of the checkpoint.
        channel: to hand it the image's files.

    """

    target: Target
    source: MemorySource
    channel: Channel
    _files: dict[int, int] = field(default_factory=dict)  # our descriptor -> the process's
    _made: int = 0

    def map(self, area: Area, mapping: Mapping) -> tuple[Run, ...]:
        """Map the long pieces of a mapping's contents; return the runs that are left to be copied."""
        if not isinstance(self.source, MappableSource):
            return mapping.runs
        plain = mapping.kind is MappingKind.ANONYMOUS and not mapping.prot & _EXECUTE
        if not plain or not _COPIED.isdisjoint(mapping.flags) or len(self._files) >= _MOST_FILES:
            return mapping.runs
        pieces = intersect(mapping.runs, self.source.mappable(area))
        done = [run for run in pieces if self._map(area, mapping, run)]
        return tuple(subtract(mapping.runs, done)) if done else mapping.runs

    def _map(self, area: Area, mapping: Mapping, run: Run) -> bool:
        if run.length < _SHORTEST or self._made == _MOST:
            return False
        place = self.source.locate(area, run)
        if place is None or place.offset % os.sysconf("SC_PAGE_SIZE"):
            return False
        if os.fstat(place.fd).st_size < place.offset + run.length:
            raise RestoreError(f"mapping {mapping.start:x}-{mapping.end:x}", "its file in the image has been cut")
        if place.fd not in self._files:
            self._files[place.fd] = self.channel.receive(self.target, place.fd)
        start = mapping.start + run.offset
        flags = map_flags(mapping) & ~(_FIXED_NOREPLACE | _ANONYMOUS) | _FIXED
        self.target.call("mmap", start, run.length, first_prot(mapping), flags, self._files[place.fd], place.offset)
        self._made += 1
        return True

    def finish(self) -> None:
        """Close the image's files in the process; its mappings stay."""
        for fd in self._files.values():
            self.target.call("close", fd)
        self._files.clear()
