"""The view: what every path means inside one sandbox, and where that differs from what the kernel says.

    View(denied=[b"/srv/secret"], virtual=layer)  ── attach ──►  resolve(view, request, at, path) ──► Location

The view holds the root that paths start from, the table of marks, and the layers. It decides nothing about calls: the
handlers below `handlers/files` do, written once against `Location`.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from stat import S_ISDIR
from threading import Lock
from typing import TYPE_CHECKING

from sandlock_notif.errors import NotifError
from sandlock_notif.fs.layers.denied import DeniedLayer
from sandlock_notif.fs.location import Location
from sandlock_notif.fs.magic import Magic
from sandlock_notif.fs.marks import MarkTable
from sandlock_notif.fs.origin import Origins, open_of
from sandlock_sys.walk import Walker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandlock_notif.dispatch import Services
    from sandlock_notif.fs.layers.virtual import VirtualLayer
    from sandlock_notif.fs.marks import Awaited
    from sandlock_notif.fs.mount import Mount
    from sandlock_notif.processes import Process
    from sandlock_notif.request import Request

__all__ = ["View"]

_THREADS = 8  # that may wait for a file system; a dead server holds up no more


class View:
    """One sandbox's view of files.

    Arguments:
        denied: absolute paths that are refused, for every operation and by whatever name.
        virtual: generated files, or None.

    Attributes:
        root: O_PATH fd of the directory that absolute paths start from.
        root_identity: its (st_dev, st_ino).
        table: the marks.
        origins: where relative paths start.
        magic: the links of /proc.
        denials: what is denied, to be changed while the sandbox runs.
        contained: the root is not the kernel's own, so `..` needs watching.
        fence: what `..` does not leave: the root when `contained`, else -1.
        has_cow: a copy-on-write mount is there.

    """

    def __init__(self, *, denied: Iterable[bytes] = (), virtual: VirtualLayer | None = None) -> None:
        self.virtual = virtual
        self.table = MarkTable()
        self.origins = Origins(self.table)
        self.walker = Walker()
        self.denials = DeniedLayer(self, denied)
        self.mounts: list[Mount] = []
        self.has_cow = False
        self.contained = False
        self.root = self.fence = -1
        self.root_identity = (0, 0)
        self._changing = Lock()
        self._services: Services | None = None
        self._magic: Magic | None = None
        self._pool: ThreadPoolExecutor | None = None

    @property
    def needed(self) -> bool:
        """Whether anything differs from what the kernel says: without it no call has to be served."""
        return bool(self.denials or self.virtual or self.mounts or self.has_cow)

    @property
    def filters(self) -> bool:
        """Whether listings of directories differ from the kernel's."""
        return self.virtual is not None and self.virtual.filters

    @property
    def services(self) -> Services:
        """What the handlers work with."""
        if self._services is None:
            raise NotifError("the view is not attached yet")
        return self._services

    @property
    def magic(self) -> Magic:
        """The links of /proc."""
        if self._magic is None:
            raise NotifError("the view is not attached yet")
        return self._magic

    def attach(self, services: Services) -> None:
        """Take the root of the parked child and look at what is denied.

        Raises:
            NotifError, OSError: something cannot be looked at; then nothing may run.

        """
        self._services = services
        self._magic = Magic(services.processes)
        self.root = os.open(b"/proc/%d/root" % services.pid, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        found = os.fstat(self.root)
        self.root_identity = found.st_dev, found.st_ino
        self.denials.attach()
        if self.virtual is not None:
            self.virtual.attach(self)
        self.changed()

    def changed(self) -> None:
        """Take notice that marks were added, or what they say."""
        with self._changing:
            self.table.refresh()
            self.origins.forget()

    def expect(self, directory: int, rule: Awaited) -> None:
        """Mark a directory, whose fd is given away, in which names mean what `rule` says."""
        mark = self.table.pin(directory)
        if mark.hook is not rule.hook or any(mark.names.get(name) != found for name, found in rule.names.items()):
            mark.names.update(rule.names)
            mark.hook = mark.hook or rule.hook
            mark.transient = rule.transient
            self.changed()

    def process(self, request: Request) -> Process:
        """Return the caller's process."""
        return self.services.processes.of(request)

    def of_fd(self, request: Request, at: int, *, looks: bool) -> Location:
        """Return what the caller's fd itself stands for; with `looks`, only to tell its attributes."""
        found = open_of(request, at)
        try:
            identity, mode = self.origins.check(found)
            if not looks and not S_ISDIR(mode):
                self.origins.check_file(self.root, found)
        except BaseException:
            os.close(found)
            raise
        return self.placed(Location(-1, b"", found, identity, mode))

    def may_change(self, place: Location) -> bool:
        """Whether mode, owner, times and attributes of what is there may change."""
        _ = place
        return True

    def placed(self, location: Location) -> Location:
        """Tell a place that an fd led to the mount that it lies on."""
        return location

    def mount_of(self, fd: int) -> Mount | None:
        """Return the mount of the view that an fd of the child's lies on, where there are such; None for the host."""
        _ = fd
        return None

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Threads that may wait for file systems."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="sandlock-files")
        return self._pool

    def close(self) -> None:
        """Close every fd; twice is fine."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        self.origins.close()
        self.denials.close()
        self.table.close()
        root, self.root = self.root, -1
        if root >= 0:
            os.close(root)
