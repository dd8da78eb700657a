"""The number of processors that a program is shown where it asks the kernel: sched_getaffinity and its counterpart."""

from __future__ import annotations

from collections.abc import Sequence
from errno import EINVAL
from typing import TYPE_CHECKING

from sandlock_notif import memory
from sandlock_notif.action import Action, Errno, Value
from sandlock_notif.dispatch import HandlerTable, Trap

if TYPE_CHECKING:
    from sandlock_notif.request import Request

__all__ = ["ProcessorsTable", "decide_get", "decide_set"]

_WORD = 8  # sizeof(unsigned long), which masks are made of
_MAX_MASK = 8192 // 8  # bytes: CONFIG_NR_CPUS is at most 8192 (x86, MAXSMP)


class ProcessorsTable(HandlerTable):
    """Shows cpus 0 to `count` - 1, whatever the machine has.

    A program may pin itself to any of them. That is taken note of by nobody: which real core runs it is not for it to
    choose, as the shown ones have no real counterparts.
    """

    name = "processors"
    while_parked = False

    def __init__(self, count: int) -> None:
        self._count = count

    def traps(self) -> Sequence[Trap]:
        """Return the two calls."""
        reason = "num_cpus: the affinity mask is where C libraries count processors"
        return (
            Trap("sched_getaffinity", self._get, reason, (), "memory"),
            Trap("sched_setaffinity", self._set, reason, (), "memory"),
        )

    def _get(self, request: Request) -> Action:
        mask = decide_get(self._count, request.args[1] & 0xFFFFFFFF)
        if mask is None:
            return Errno(EINVAL)
        memory.write(request, request.args[2], mask)
        return Value(len(mask))

    def _set(self, request: Request) -> Action:
        length = min(request.args[1] & 0xFFFFFFFF, _MAX_MASK)
        return Value(0) if decide_set(self._count, memory.read(request, request.args[2], length)) else Errno(EINVAL)


def decide_get(count: int, length: int) -> bytes | None:
    """Return the mask of `count` processors for a buffer of `length` bytes, or None for EINVAL.

    As sched_getaffinity(2): the buffer must hold a bit for every processor and be whole words; what is returned is no
    longer than needed.
    """
    if length * 8 < count or length % _WORD:
        return None
    size = -(-count // (_WORD * 8)) * _WORD
    return ((1 << count) - 1).to_bytes(size, "little")


def decide_set(count: int, mask: bytes) -> bool:
    """Tell whether `mask` names a processor that is shown, as sched_setaffinity(2) demands."""
    return bool(int.from_bytes(mask, "little") & ((1 << count) - 1))
