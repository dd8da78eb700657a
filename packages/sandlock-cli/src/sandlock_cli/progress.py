"""Progress on a terminal, for what takes long; nothing where stderr is anything else."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["bar"]

_EVERY_S = 0.1  # more often nobody can read it, and a slow terminal would hold the work up


def bar(unit: str, shift: int = 0) -> Callable[[int, int], None] | None:
    """Return a function (done, in all) that draws a bar and erases it at the end; None where nobody would see it.

    Arguments:
        unit: words behind the numbers.
        shift: the numbers are shown divided by 2 ** shift.

    """
    stream = sys.stderr
    if stream is None or not stream.isatty():
        return None

    last = -_EVERY_S

    def draw(done: int, size: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < size and now - last < _EVERY_S:
            return
        last = now
        width = 40 * done // size if size else 40
        line = f"\r[{'#' * width:<40}] {done >> shift} of {size >> shift} {unit}"
        stream.write("\r\033[K" if done >= size else line)
        stream.flush()

    return draw
