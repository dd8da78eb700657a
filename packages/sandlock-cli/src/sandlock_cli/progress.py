"""Progress on a terminal, for what takes long; nothing where stderr is anything else, or where it is soon over.

`rich` draws it where that is installed (the extra `rich`); NO_COLOR and TERM=dumb are its to honour. It is imported
when there is something to draw: importing it takes longer than most of what is done here.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Protocol, TextIO

    class _Face(Protocol):
        """Something that can be drawn on a terminal."""

        def draw(self, done: int, whole: int) -> None: ...
        def close(self) -> None: ...


__all__ = ["Bar"]

_AFTER_S = 0.3  # what takes less needs no bar
_EVERY_S = 0.1  # more often nobody can read it, and a slow terminal would hold the work up
_WIDTH = 40


class Bar:
    """`with Bar(...) as progress:` gives a function (done, in all) that draws, or None where nobody would see it.

    Whatever way the block is left, the line is empty again and the cursor is there.

    Arguments:
        unit: words behind the numbers.
        shift: the numbers are shown divided by 2 ** shift.
        quiet: nothing is drawn.

    """

    def __init__(self, unit: str, shift: int = 0, *, quiet: bool = False) -> None:
        self._unit = unit
        self._shift = shift
        self._quiet = quiet
        self._next = 0.0
        self._face: _Face | None = None

    def __enter__(self) -> Callable[[int, int], None] | None:
        """Begin to count the time."""
        if self._quiet or sys.stderr is None or not sys.stderr.isatty():
            return None
        self._next = time.monotonic() + _AFTER_S
        return self._draw

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Erase what was drawn."""
        if self._face is not None:
            self._face.close()

    def _draw(self, done: int, whole: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        if self._face is None:
            self._face = _face(self._unit, sys.stderr)
        self._face.draw(done >> self._shift, whole >> self._shift)


def _face(unit: str, stream: TextIO) -> _Face:
    try:
        from rich.console import Console  # lazy, and optional: see above
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return _Plain(unit, stream)
    counted = TextColumn("{task.completed:.0f} of {task.total:.0f} {task.description}")
    # No thread of its own: some of what is shown here forks.
    progress = Progress(
        BarColumn(_WIDTH), counted, TimeRemainingColumn(), console=Console(file=stream), transient=True,
        auto_refresh=False,
    )  # fmt: skip
    task = progress.add_task(unit, total=1)
    progress.start()

    class Rich:
        """What rich draws."""

        def draw(self, done: int, whole: int) -> None:
            progress.update(task, completed=done, total=whole, refresh=True)

        def close(self) -> None:
            progress.stop()

    return Rich()


class _Plain:
    """A bar of ASCII."""

    def __init__(self, unit: str, stream: TextIO) -> None:
        self._unit = unit
        self._stream = stream

    def draw(self, done: int, whole: int) -> None:
        width = _WIDTH * min(done, whole) // whole if whole else _WIDTH
        self._write(f"\r[{'#' * width:<{_WIDTH}}] {done} of {whole} {self._unit}")

    def close(self) -> None:
        self._write("\r\033[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
