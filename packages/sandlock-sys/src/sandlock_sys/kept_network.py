"""Network namespaces that are given back, for later launches: making one costs half a launch, and so does its end.

A namespace is lent to one sandbox at a time, and kept only when everything of the last one has ended; the guard of the
next looks whether a socket is left in it (`_csrc/network.c`) and makes a new one if so. What cannot be seen is an fd of
a file of its /proc/net in somebody's hands, who would go on reading there. So the caller says whether one can get out
of the sandbox at all (`SpawnRequest.keeps_network`).
"""

from __future__ import annotations

import os

from sandlock_sys._buffers import string
from sandlock_sys._ffi import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_sys._ffi import CData
    from sandlock_sys.spawn_request import SpawnRequest

__all__ = ["KeptNetwork", "give_network", "hold_network", "lend_network"]

_KEPT = 2  # between launches; each is some hundred kilobytes of the kernel's memory, and two fds


class KeptNetwork:
    """A network namespace that a guard made, held by its fd.

    Attributes:
        ids: whose user namespace it belongs to: the caller's (uid, gid), or None for that of the caller itself.
        net: its fd, or -1 where the guard could not hand it over.
        owner: the fd of that user namespace, or -1.

    """

    __slots__ = ("_fds", "_process", "_proof", "ids")

    def __init__(self, control: int, ids: tuple[int, int] | None) -> None:
        self.ids = ids
        self._process = os.getpid()
        self._fds = ffi.new("int32_t[2]", [-1, -1])  # filled in C: an interrupt finds all of it or nothing
        lib.sl_network_receive(control, self._fds)
        self._proof = self._look()

    def __del__(self) -> None:
        """Close the fds; a process that was forked from this one closes its own copies."""
        self.close()

    @property
    def net(self) -> int:
        """The fd of the namespace, or -1."""
        return int(self._fds[0])

    @property
    def owner(self) -> int:
        """The fd of its user namespace, or -1."""
        return int(self._fds[1])

    def usable(self) -> bool:
        """Whether this process, and no parent of it, holds this, by numbers that are still those of the namespaces."""
        fds = self.net >= 0 and (self.owner >= 0 or self.ids is None)
        return fds and self._process == os.getpid() and self._look() == self._proof

    def close(self) -> None:
        """Let it go. Numbers that are another file's by now are left alone."""
        mine = hasattr(self, "_proof") and self._look() == self._proof
        for index in range(2):
            fd, self._fds[index] = self._fds[index], -1
            if mine and fd >= 0:
                lib.sl_close(fd)

    def _look(self) -> list[tuple[int, int, int]]:
        """What tells these namespaces from others: an inode's number is used again, at another time. Empty: closed."""
        try:
            found = [os.fstat(fd) for fd in (self.net, self.owner) if fd >= 0]
        except OSError:  # EBADF, after somebody who closes all
            return []
        return [(status.st_dev, status.st_ino, status.st_ctime_ns) for status in found]


_kept: list[KeptNetwork] = []


def lend_network(memory: CData, request: SpawnRequest, held: list[object]) -> KeptNetwork | None:
    """Put a kept namespace into a launch that wants one, if there is one for it; it belongs to the launch now."""
    if not request.network_namespace:
        return None
    ids = request.id_map
    if ids is not None:
        memory.network_uid_map, memory.network_gid_map = (string(b"%d %d 1" % (number, number), held) for number in ids)
    while request.keeps_network and _kept:
        try:
            network = _kept.pop()
        except IndexError:  # another thread took it
            break
        if network.ids == ids and network.usable():
            memory.network, memory.network_owner = network.net, network.owner
            return network
    return None


def hold_network(
    memory: CData, report: int, ids: tuple[int, int] | None, lent: KeptNetwork | None
) -> KeptNetwork | None:
    """Return the namespace that a launch has begun in: the one that was lent, or its new one, sent over `report`."""
    if memory.network_taken:
        return lent
    return KeptNetwork(report, ids) if memory.network_sent else None


def give_network(network: KeptNetwork) -> None:
    """Keep `network` for a later launch: of the sandbox that had it nothing is left."""
    if len(_kept) < _KEPT and network.usable():
        _kept.append(network)
