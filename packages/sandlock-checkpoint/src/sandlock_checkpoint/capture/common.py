"""Find processes that have in common what a fork gives each its own of: clone(2) without CLONE_THREAD can do that."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cmp_to_key, partial
from itertools import pairwise

from sandlock_checkpoint.terms import Unsupported
from sandlock_sys import kcmp
from sandlock_sys.errors import SyscallError

__all__ = ["find_common"]

_LESS = 1  # kcmp(2)
_RESOURCES = {
    kcmp.Resource.VM: "memory",
    kcmp.Resource.FILES: "table of descriptors",
    kcmp.Resource.FS: "working directory and umask",
}


def find_common(pids: Sequence[int]) -> list[Unsupported]:
    """Return the processes, all stopped, that would come back with copies of what is another's as well."""
    found = []
    for resource, words in _RESOURCES.items():
        order = partial(_order, resource)
        try:
            alike = sorted(sorted(pids), key=cmp_to_key(order))
            pairs = [(first, second) for first, second in pairwise(alike) if not order(first, second)]
        except SyscallError:  # no CONFIG_KCMP: then processes are taken for what they are nearly always
            return []
        for first, second in pairs:
            reason = f"process {second} has its {words} in common with process {first}: each would have its own"
            found.append(Unsupported(f"process:{second}", "shared_process", reason))
    return found


def _order(resource: kcmp.Resource, one: int, other: int) -> int:
    """Compare by the kernel's order of such objects."""
    told = kcmp.compare(one, other, resource)
    return 0 if not told else -1 if told == _LESS else 1
