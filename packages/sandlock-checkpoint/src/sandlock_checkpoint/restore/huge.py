"""Private memory that is filled whole gets huge pages first, where the host leaves that to programs ("madvise").

A new page costs more than the copy into it, and a huge one costs once what 512 small ones cost each. Only what is
filled whole is made huge, so the process has as much memory as it had. A program that wants none of them
(MADV_NOHUGEPAGE, or a policy's `no_huge_pages`) gets none, and so does everyone where the administrator says "never".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from sandlock_checkpoint.huge_pace import HugePace
from sandlock_checkpoint.memory import Mapping, MappingKind, Run
from sandlock_checkpoint.restore.plan import first_prot
from sandlock_checkpoint.restore.target import Target
from sandlock_sys import procmem
from sandlock_sys.hugepages import huge_page_size, mode

__all__ = ["HugeMemory"]

_COLLAPSE = 25  # MADV_COLLAPSE, linux/mman.h, 6.1
_WRITE = 2  # PROT_WRITE
_PROCESS_CLOCK = 2  # CPUCLOCK_SCHED of clock_getcpuclockid(3), behind the pid's complement
# VmFlags of what stays as it is: no huge pages wanted, grows down, locked, merged with equal pages
_UNTOUCHED = frozenset({"nh", "gd", "lo", "mg"})


class HugeMemory:
    """Makes memory huge until the kernel will not."""

    def __init__(self) -> None:
        # Where it is "always" the writing itself makes them.
        self._pace = HugePace(huge_page_size() if mode() == "madvise" else 0)

    def prepare(self, target: Target, mapping: Mapping, runs: Sequence[Run]) -> None:
        """Have the huge pages there that these runs of a mapping, which are about to be written, fill whole."""
        plain = mapping.kind is MappingKind.ANONYMOUS and not mapping.shared and first_prot(mapping) & _WRITE
        if not plain or not _UNTOUCHED.isdisjoint(mapping.flags):
            return
        clock = partial(time.clock_gettime, ~target.pid << 3 | _PROCESS_CLOCK)
        for run in runs:
            start = mapping.start + run.offset
            for first, last in self._pace.parts(start, start + run.length, clock):
                self._make(target, first, last)

    def _make(self, target: Target, first: int, last: int) -> None:
        touched = [(address, 1) for address in range(first, last, self._pace.size)]  # of nothing the kernel makes none
        moved = procmem.write_ranges(target.pid, touched, bytes(len(touched)))
        if moved.stop is not None or target.errno("madvise", first, last - first, _COLLAPSE):
            self._pace.give_up()  # no such call before 6.1, or no room
