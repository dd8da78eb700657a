"""Data files of an image in a tmpfs: their pages are made huge ones before they are written.

A new page of a tmpfs costs more than the copy into it, and a process stands still meanwhile; a huge page costs once
what 512 small ones cost each. Only what is written whole is made huge, so an image takes no more memory by that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from sandlock_checkpoint.huge_pace import HugePace
from sandlock_checkpoint.image.layout import within
from sandlock_checkpoint.memory import Run
from sandlock_sys.errors import SyscallError
from sandlock_sys.hugepages import collapse_file, huge_page_size, mode

__all__ = ["HugePages"]

_AHEAD = 1 << 26  # bytes that are looked at together


class HugePages:
    """Makes pages huge until the kernel will not: then they are written as on any file system."""

    def __init__(self) -> None:
        self._pace = HugePace(huge_page_size() if mode() != "never" else 0)
        self._ahead: dict[int, int] = {}  # fd -> up to where its file has been looked at

    def prepare(self, fd: int, runs: Sequence[Run], place: Run) -> None:
        """Have the pages there that `place` of a file is to be written to.

        Arguments:
            fd: of the file, open for reading and writing, and written in ascending order.
            runs: all parts of the file that are sure to be written.
            place: what is written next.

        """
        at = max(place.offset, self._ahead.get(fd, 0))
        while self._pace.size and at < place.offset + place.length:
            end = (at + _AHEAD) // _AHEAD * _AHEAD
            for run in within(runs, Run(at, end - at)):
                for first, last in self._pace.parts(run.offset, run.offset + run.length, time.thread_time):
                    self._make(fd, first, last)
            self._ahead[fd] = at = end

    def forget(self, fd: int) -> None:
        """Hear that a file is closed: another may have its number."""
        self._ahead.pop(fd, None)

    def _make(self, fd: int, first: int, last: int) -> None:
        size = self._pace.size
        if os.fstat(fd).st_size < last:
            os.ftruncate(fd, last)
        for at in range(first, last, size):
            os.pwrite(fd, b"\0", at)  # the kernel makes nothing of a hole
        try:
            collapse_file(fd, first, last - first, size)
        except SyscallError:  # no tmpfs, no room, no such call before 6.1
            self._pace.give_up()
