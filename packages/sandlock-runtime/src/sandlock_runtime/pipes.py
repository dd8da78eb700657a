"""Pipes between a sandbox and its caller, whose ends are noted until somebody else owns them."""

from __future__ import annotations

import os
from fcntl import F_DUPFD_CLOEXEC, fcntl

__all__ = ["close_held", "pipe_above"]


def pipe_above(held: list[int]) -> tuple[int, int]:
    """Return a pipe whose ends are in `held`, above the standard streams."""
    ends = list(os.pipe())
    for index, fd in enumerate(ends):
        if fd <= 2:  # the caller lacks that stream: what it prints there must not get into the pipe
            ends[index] = fcntl(fd, F_DUPFD_CLOEXEC, 3)
            os.close(fd)
    held += ends
    return ends[0], ends[1]


def close_held(held: list[int], fd: int) -> None:
    """Close `fd` if it is in `held`, and take it out."""
    if fd in held:
        held.remove(fd)
        os.close(fd)
