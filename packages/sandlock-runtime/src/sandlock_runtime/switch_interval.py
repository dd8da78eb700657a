"""How soon the supervisor gets the interpreter from other threads of the host, while it serves a sandbox.

A thread that wants the interpreter waits `sys.getswitchinterval()` for one that computes: 5 ms as CPython comes, which
every served call would cost.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SERVING_S", "short_switches"]

SERVING_S = 0.0005
"""The interval while a sandbox is served. Shorter gains little, and costs a host that computes more switches."""
_USUAL_S = 0.005  # CPython's default, Python/ceval_gil.c
_lock = allocate_lock()
_holders = 0


@contextmanager
def short_switches() -> Iterator[None]:
    """Let threads switch every `SERVING_S` until the last of those who asked is done.

    Where the host has chosen an interval of its own, before or meanwhile, that one stays.
    """
    global _holders  # noqa: PLW0603  # the interval belongs to the process, and so do those who need it
    with _lock:
        _holders += 1
        _replace(_USUAL_S, SERVING_S)
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if not _holders:
                _replace(SERVING_S, _USUAL_S)


def _replace(expected_s: float, wanted_s: float) -> None:
    """Set the interval, unless somebody else has; it is kept in whole microseconds."""
    if round(sys.getswitchinterval() * 1e6) == round(expected_s * 1e6):
        sys.setswitchinterval(wanted_s)
