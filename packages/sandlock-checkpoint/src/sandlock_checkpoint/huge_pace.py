"""How much memory is made into huge pages at a time, and when that is not worth it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

__all__ = ["HugePace"]

_MOST = 1 << 24  # bytes at a time: what is made is mapped meanwhile, and counts as the caller's memory
_SMALL_PAGE_S = 2e-6  # what a page costs that is not huge
_PAGE = 4096
_PAUSE = 1 << 25  # bytes that are left as they are after a slow part
_SLOW_PARTS = 4  # in a row, after which all are


class HugePace:
    """Begins with one huge page, takes more at a time while that is quick, and gives up when it is not.

    Huge pages are slow to have where memory is in pieces, which the kernel puts together first, and in a virtual
    machine whose free memory its host has taken back.

    Attributes:
        size: bytes of a huge page, 0 from when there are to be none.

    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._step = size
        self._pause = 0
        self._slow = 0

    def parts(self, start: int, end: int, clock: Callable[[], float]) -> Iterator[tuple[int, int]]:
        """Yield beginning and end of parts to be made huge; what the caller does with one is timed.

        Arguments:
            start: first byte of memory or of a file that is filled whole; only full huge pages in it are taken.
            end: first byte behind.
            clock: the processor time of who makes them, in seconds: others that run meanwhile do not count.

        """
        size = self.size
        if not size:
            return
        at, end = -(-start // size) * size, end // size * size
        while self.size and at < end:
            if self._pause:
                left = min(self._pause, end - at)
                self._pause -= left
                at += left
                continue
            part = min(self._step, end - at)
            began = clock()
            yield at, at + part
            self._note(part, clock() - began)
            at += part

    def give_up(self) -> None:
        """Make no more."""
        self.size = 0

    def _note(self, part: int, took: float) -> None:
        if took <= part // _PAGE * _SMALL_PAGE_S:
            self._slow, self._step = 0, min(self._step * 2, max(_MOST, self._step))
            return
        self._slow, self._step, self._pause = self._slow + 1, self.size, _PAUSE
        if self._slow == _SLOW_PARTS:
            self.give_up()
