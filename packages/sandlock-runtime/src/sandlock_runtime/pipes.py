"""Pipes between a sandbox and its caller, whose ends are noted until somebody else owns them."""

from __future__ import annotations

import os
from fcntl import F_DUPFD_CLOEXEC, fcntl
from select import POLLIN, poll
from signal import SIG_BLOCK, SIGPIPE, pthread_sigmask

__all__ = ["close_held", "pass_on", "pipe_above"]

_CHUNK = 1 << 20  # at most what the larger of the two pipes holds is moved at once


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


def pass_on(source: int, target: int) -> None:
    """Move what comes from a pipe into another one until either has nobody at its far end, and close both; in a thread.

    A pipe opens at both ends by its name in /proc/self/fd, which no rule covers: who reads from one can write into it
    as well. Between two pipes that nobody shares there is no way back.
    """
    pthread_sigmask(SIG_BLOCK, {SIGPIPE})  # of this thread
    watch = poll()
    watch.register(source, POLLIN)
    watch.register(target, 0)  # tells when nobody reads there any more, before there is something to write
    try:
        while target not in dict(watch.poll()) and os.splice(source, target, _CHUNK):
            pass
    except BrokenPipeError:
        return
    finally:
        os.close(source)
        os.close(target)
