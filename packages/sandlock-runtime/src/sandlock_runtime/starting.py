"""The launch itself, and the launch again where this kernel is too old for a part that hides nobody."""

from __future__ import annotations

from errno import EINVAL

from sandlock_sys.spawn import HOST_CLOCK, Spawned, SpawnError, SpawnRequest, spawn

__all__ = ["start"]

_given_up = 0  # flags that do without what this kernel cannot do: one fact about the host


def start(request: SpawnRequest) -> Spawned:
    """Launch what `request` says; raises SpawnError as `sandlock_sys.spawn.spawn` does.

    Linux before 6.2 lets nobody who made a time namespace clone with shared memory (EINVAL at the namespace's init).
    The time since boot is the host's there.
    """
    global _given_up  # noqa: PLW0603  # see above
    request.flags |= _given_up
    try:
        return spawn(request)
    except SpawnError as error:
        if error.step != "init" or error.errno != EINVAL or request.flags & HOST_CLOCK:
            raise
    request.flags |= HOST_CLOCK
    spawned = spawn(request)
    _given_up = HOST_CLOCK  # only now that it helped
    return spawned
