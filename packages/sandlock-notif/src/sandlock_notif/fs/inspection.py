"""What /proc tells of a process's inside (its maps, its environment), opened for that process and its ancestors.

The kernel gives these to who may trace the process (PTRACE_MODE_READ, ptrace(2)). Landlock lets a process trace only
what its own domain holds, and a deputy lives in a domain beside the child's: it is refused where the child would not
be. So this process opens them, as far as the kernel lets it, and the deputy says whether the grants reach there.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from sandlock_notif.action import Errno, InjectFd
from sandlock_notif.task_facts import descends

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sandlock_notif.action import Action
    from sandlock_notif.fs.location import Location
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["open_own"]

# proc(5). Not pagemap, whose content depends on the capabilities of who opens it.
_INSIDE = re.compile(rb"/(\d+)(/task/\d+)?/(?:auxv|environ|io|maps|mem|numa_maps|smaps|smaps_rollup)\Z")
_ALWAYS = b"stat"  # in the same directory, open to everyone: the deputy opens it if, and only if, Landlock lets it


def open_own(files: Files, request: Request, place: Location, flags: int) -> Awaitable[Action] | None:
    """Open such a file of the caller's process, or of one that descends from it, for reading; None for any other file.

    Safety: object and directory are bound to the process that they were looked up for, so no number that is given
    away meanwhile makes them lead to another's. That this is a process of the sandbox the numbering says, that it is
    the caller, which waits, the text of the link. All have one Landlock domain, the sandbox's (`own_domain_traps`), so
    the kernel would let the caller look; but where nobody can make itself undumpable, secrets are kept from processes
    beside: those are left to the deputy, which is refused.

    Raises:
        OSError: what the kernel answers this process, without any capability.

    """
    identity = place.identity
    if flags & os.O_ACCMODE != os.O_RDONLY or identity is None or place.directory < 0:
        return None
    magic = files.view.magic
    if not magic.is_proc(identity[0], place.object):
        return None
    found = _INSIDE.search(os.readlink(b"/proc/self/fd/%d" % place.object))
    if found is None or not magic.numbering.owns(request, place.directory, int(found[1])):
        return None
    caller = magic.numbering.leader(request, identity[0])
    if int(found[1]) != caller and not descends(place.directory, caller, b"../../.." if found[2] else b".."):
        return None
    opened = os.open(b"/proc/self/fd/%d" % place.object, flags & ~os.O_NOFOLLOW | os.O_CLOEXEC)
    return _give(files, place, opened, close_on_exec=bool(flags & os.O_CLOEXEC))


async def _give(files: Files, place: Location, opened: int, *, close_on_exec: bool) -> Action:
    """Give `opened` to the child if the deputy may read in its directory."""
    try:
        done = await files.call("openat", place.directory, _ALWAYS, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except BaseException:
        os.close(opened)
        raise
    if done.result < 0:
        os.close(opened)
        return Errno(-done.result)
    os.close(done.result)
    return InjectFd(opened, close_on_exec=close_on_exec)
