"""Parse the lists of thread and child ids below /proc/PID."""

from __future__ import annotations

from collections.abc import Iterable

from sandlock_sys.errors import ProcParseError

__all__ = ["parse_children", "parse_task_names"]


def parse_children(data: bytes, file: str = "children") -> tuple[int, ...]:
    """Return the child process ids that /proc/PID/task/TID/children names: those that this thread created.

    Raises:
        ProcParseError: a word is not a number.

    """
    return tuple(_number(word, data, file) for word in data.split())


def parse_task_names(names: Iterable[str], file: str = "task") -> tuple[int, ...]:
    """Return the thread ids that the entries of /proc/PID/task are, in increasing order.

    Raises:
        ProcParseError: an entry is not a number.

    """
    return tuple(sorted(_number(name.encode(), name.encode(), file) for name in names))


def _number(word: bytes, text: bytes, file: str) -> int:
    if not word.isdigit():
        raise ProcParseError(file, 1, text, f"not an id: {word!r}")
    return int(word)
