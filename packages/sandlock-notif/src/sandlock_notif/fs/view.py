"""The view: what every path means inside one sandbox, and where that differs from what the kernel says.

    View(denied=[b"/srv/secret"], virtual=layer)  ── attach ──►  resolve(view, request, at, path) ──► Location

The view holds the root that paths start from, the table of marks, and the layers. It decides nothing about calls: the
handlers below `handlers/files` do, written once against `Location`.
"""

from __future__ import annotations

import os
from errno import EBUSY, EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY
from stat import S_ISDIR
from threading import Lock
from typing import TYPE_CHECKING

from sandlock_notif.errors import NotifError
from sandlock_notif.fs.file_systems import FileSystems
from sandlock_notif.fs.layers.denied import DeniedLayer
from sandlock_notif.fs.location import Location
from sandlock_notif.fs.lookup import look_up
from sandlock_notif.fs.magic import Magic
from sandlock_notif.fs.marks import MarkTable, Mounted
from sandlock_notif.fs.mount import Mount
from sandlock_notif.fs.origin import Origins, holder_of, open_of
from sandlock_sys.walk import NO_MARKS, Marks, Walker, climb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sandlock_cow.branch import Branch
    from sandlock_notif.dispatch import Services
    from sandlock_notif.fs.layers.virtual import VirtualLayer
    from sandlock_notif.fs.marks import Awaited, Identity, Rule
    from sandlock_notif.fs.mount import Bind
    from sandlock_notif.processes import Process
    from sandlock_notif.request import Request
    from sandlock_sys.shortcut import BranchPlace, Shortcut

__all__ = ["View"]

_REMOVEDIR = 0x200  # AT_REMOVEDIR, linux/fcntl.h


class View:
    """One sandbox's view of files.

    Arguments:
        denied: absolute paths that are refused, for every operation and by whatever name.
        virtual: generated files, or None.
        live: paths may be denied while the program runs, so everything is served from the start.

    Attributes:
        root: O_PATH fd of the directory that absolute paths start from.
        host_root: O_PATH fd of the root that the kernel knows.
        moves: another root or mounts are there, so that the kernel finds other things by a path.
        root_identity: its (st_dev, st_ino).
        table: the marks.
        origins: where relative paths start.
        magic: the links of /proc.
        copied: gives the path of the program that a file in memory is a copy of, by its identity.
        systems: the file systems that objects lie on.
        denials: what is denied, to be changed while the sandbox runs.

    """

    def __init__(
        self,
        *,
        denied: Iterable[bytes] = (),
        virtual: VirtualLayer | None = None,
        branches: Iterable[Branch] = (),
        writable: Iterable[bytes] = (),
        live: bool = False,
    ) -> None:
        self._live = live
        self.virtual = virtual
        self._paths = tuple(writable)
        self._more: Sequence[bytes] = ()
        self._writable = NO_MARKS
        self.table = MarkTable()
        self.origins = Origins(self.table)
        self.walker = Walker()
        self.denials = DeniedLayer(self, denied)
        self.mounts: list[Mount] = []
        self._branches = tuple(branches)
        self._folder: bytes | None = None
        self._binds: Sequence[Bind] = ()
        self.moves = False
        self.copied: Callable[[Identity], bytes | None] = lambda _: None
        self.root = self.host_root = -1
        self.root_identity = (0, 0)
        self._changing = Lock()
        self._shortcut: Shortcut | None = None
        self._services: Services | None = None
        self._calls: dict[int, str] = {}
        self._magic: Magic | None = None
        self.systems = FileSystems(self._forget)

    def show(
        self, *, root: str | None, binds: Sequence[Bind], branches: Iterable[Branch], writable: Sequence[bytes]
    ) -> None:
        """Show another root, mounts and branches; before `attach`, which reads `binds` and `writable`.

        Arguments:
            root: an absolute path on the host, or None for its own root.
            binds: what is mounted where, a mount below another one after it.
            branches: copy-on-write folders; they are shown where their real trees are.
            writable: further paths below which attributes may change.

        """
        self._folder = None if root is None else os.fsencode(root)
        self._binds, self._branches, self._more = binds, tuple(branches), writable
        self.moves = root is not None or bool(binds)

    @property
    def has_cow(self) -> bool:
        """Whether a copy-on-write mount is there."""
        return bool(self._branches)

    @property
    def needed(self) -> bool:
        """Whether anything differs from what the kernel says: without it no call has to be served."""
        return bool(self._live or self.denials or self.virtual or self.moves or self.has_cow)

    @property
    def filters(self) -> bool:
        """Whether listings of directories differ from the kernel's."""
        return self.has_cow or (self.virtual is not None and self.virtual.filters)

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
        self._calls = {number: name for name, number in services.arch.syscalls.items()}
        self.systems.pid = services.pid
        self._magic = Magic(services.processes, self.systems)
        self.host_root = os.open(b"/proc/%d/root" % services.pid, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if self._folder is None:
            self.root = os.dup(self.host_root)
        else:
            self.root = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._mark(Mount(b"/", os.dup(self.root), os.readlink(b"/proc/self/fd/%d" % self.root)))
        self.table.aliases.attach(services.pid, self.host_root)
        found = os.fstat(self.root)
        self.root_identity = found.st_dev, found.st_ino
        self._mount()
        self._writable = Marks(self._identities([*self._paths, *self._more]))
        self.denials.attach()
        if self.virtual is not None:
            self.virtual.attach(self)
        self.changed()

    def _mount(self) -> None:
        """Put branches and mounts into the view."""
        for branch in self._branches:
            from sandlock_notif.fs.layers.cow import CowLayer  # lazy: loads a package that views without one never need

            lower = os.fsencode(branch.lower)
            root = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._mark(Mount(self.shown(lower), root, lower, cow=CowLayer(branch)))
        for bind in self._binds:
            above, _, name = bind.at.rpartition(b"/")
            directory = self.find(above or b"/", os.O_DIRECTORY)
            root = os.open(bind.host, os.O_PATH | os.O_CLOEXEC)
            mount = Mount(bind.at, root, os.readlink(b"/proc/self/fd/%d" % root))
            self.say(directory, name, Mounted(mount))
            self._mark(mount)
        if self._folder is not None:
            roots = [os.fstat(mount.root) for mount in self.mounts]
            self.origins.fence(Marks((found.st_dev, found.st_ino) for found in roots))

    def _identities(self, paths: Iterable[bytes]) -> Iterator[tuple[int, int]]:
        for path in paths:
            try:
                fd = self.find(path)
            except OSError as error:
                if error.errno not in (ENOENT, ENOTDIR):
                    raise
                continue  # a grant of what need not be there
            found = os.fstat(fd)
            os.close(fd)
            yield found.st_dev, found.st_ino

    def _mark(self, mount: Mount) -> None:
        """Take a mount over, and let walks stop where it begins."""
        self.mounts.append(mount)
        if S_ISDIR(os.fstat(mount.root).st_mode):
            mark = self.table.pin(os.dup(mount.root))
            mark.root_of, mark.filtered = mount, mark.filtered or mount.cow is not None

    def find(self, path: bytes, flags: int = 0) -> int:
        """Return an O_PATH fd, the caller's, of what `path`, absolute, leads to when nothing changes meanwhile.

        Raises:
            OSError: it cannot be opened.

        """
        roots = {mount.at: mount.root for mount in self.mounts if mount.cow is None}
        found = look_up(self.root, roots.get, path)
        if flags & os.O_DIRECTORY and not S_ISDIR(os.fstat(found).st_mode):
            os.close(found)
            raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR), path)
        return found

    def say(self, directory: int, name: bytes, rule: Rule) -> None:
        """Let `name` in a directory, whose O_PATH fd is given away, mean what `rule` says."""
        mount = self.mount_of(directory)
        if mount is None or mount.cow is None:
            mark = self.table.pin(directory)
            mark.names[name], mark.filtered = rule, True
            return
        mount.cow.rules[b"/".join([part for part in (mount.cow.path_of(directory), name) if part])] = rule
        os.close(directory)

    def changed(self) -> None:
        """Take notice that marks were added, or what they say."""
        with self._changing:
            self.table.refresh()
            self.origins.forget()
            self._forget()

    def _forget(self) -> None:
        if self._shortcut is not None:
            self._shortcut.forget()

    def shorten(self, shortcut: Shortcut) -> None:
        """Say what a path must not touch for its call to be served in one step; `changed` forgets it."""
        self._shortcut = shortcut
        if self.root < 0:
            return
        closed = self.table.closed()
        place = self._branch_place(shortcut)
        shortcut.judge_by(
            root=-1 if self.root_identity in closed.identities else self.root,
            relative=place is not None or not self._branches,  # an fd's own place is looked up in one branch alone
            marks=self.table.marks,
            names=self.table.triggers,
            closed=closed,
            denied=self.origins.denied,
            fence=self.origins.fences,
            branch=place,
            prompt=self.systems.prompt(() if place is None else (place.upper, place.lower)),
        )

    def _branch_place(self, shortcut: Shortcut) -> BranchPlace | None:
        """Return where the branch is, if there is one."""
        layers = [mount.cow for mount in self.mounts if mount.cow is not None]
        return layers[0].place(shortcut, self.table.inner, self.root_identity) if len(layers) == 1 else None

    def expect(self, directory: int, rule: Awaited) -> None:
        """Mark a directory, whose fd is given away, in which names mean what `rule` says."""
        mark = self.table.pin(directory)
        if mark.hook is not rule.hook or any(mark.names.get(name) != found for name, found in rule.names.items()):
            mark.names.update(rule.names)
            mark.hook = mark.hook or rule.hook
            mark.transient = rule.transient
            mark.filtered = mark.filtered or rule.filtered
            self.changed()

    def process(self, request: Request) -> Process:
        """Return the caller's process."""
        return self.services.processes.of(request)

    def of_fd(self, request: Request, at: int, *, looks: bool, wait: bool) -> Location:
        """Return what the caller's fd itself stands for; with `looks`, only to tell its attributes."""
        found = open_of(request, at)
        try:
            self.systems.check(found, wait=wait)
            status = os.fstat(found)
            if self.mount_of(found, stored=looks) is not None:
                place = Location(-1, b"", found, (status.st_dev, status.st_ino), status.st_mode)
                return self.placed(place, stored=looks)
            if looks and not status.st_nlink:  # where it was cannot be told, and fstat tells all of this
                return Location(-1, b"", found, (status.st_dev, status.st_ino), status.st_mode)
            identity, mode = self.origins.check(found)
            if not looks and not S_ISDIR(mode):
                self.origins.check_file(self.host_root, found)
        except BaseException:
            os.close(found)
            raise
        return Location(-1, b"", found, identity, mode)

    def may_change(self, place: Location) -> bool:
        """Whether mode, owner, times and attributes of what is there may change: below what may be written (LL-01)."""
        if not self._writable or place.object < 0 or place.identity is None:
            return False
        if place.identity in self._writable.identities:
            return True
        directory = place.object if place.is_directory else holder_of(self.host_root, place.object)
        if directory < 0:
            return False
        try:
            return climb(directory, self._writable) is not None
        finally:
            if directory != place.object:
                os.close(directory)

    def placed(self, location: Location, *, stored: bool = False) -> Location:
        """Tell a place that an fd led to the mount that it lies on."""
        mount = self.mount_of(location.object, stored=stored)
        if mount is not None and mount.cow is not None:
            path = mount.cow.path_of(location.object)
            location.mount, location.path = mount, b" (deleted)" if path is None else path
        return location

    def mount_of(self, fd: int, *, stored: bool = False) -> Mount | None:
        """Return the copy-on-write mount that an fd leads into, by what the kernel calls it; None elsewhere.

        With `stored` also for what has no place in the branch any more, and is still in its storage.
        """
        if not self.has_cow:
            return None
        shown = os.readlink(b"/proc/self/fd/%d" % fd)
        for mount in self.mounts:
            cow = mount.cow
            if cow is not None and (cow.branch.inside(shown) is not None or (stored and cow.stores(fd))):
                return mount
        return None

    def shown(self, text: bytes) -> bytes:
        """Return a path that the kernel told as the child may know it."""
        for mount in self.mounts:
            if mount.cow is not None:
                text = mount.cow.shown(text)
        if not self.moves or not text.startswith(b"/") or text.startswith(b"/memfd:"):
            return text
        mount_ = self.holding(text)
        told = None if mount_ is None else mount_.told(text)
        if told is not None:
            return told
        return b"(unreachable)" + text if self._folder is not None and text != b"/" else text

    def original(self, found: os.stat_result) -> bytes | None:
        """Return the path of the program that a file in memory is a copy of (`Loaders`), None for any other file."""
        return self.copied((found.st_dev, found.st_ino))

    def holding(self, text: bytes) -> Mount | None:
        """Return the innermost mount that holds what the kernel calls `text`; None for the host's own."""
        found = [mount for mount in self.mounts if mount.told(text) is not None]
        return max(found, key=lambda mount: len(mount.shown), default=None)

    def together(self, one: int, other: int) -> bool:
        """Whether two directories lie on one mount of the view, so that names can be moved between them."""
        if not self.moves:
            return True
        first, second = (self.holding(os.readlink(b"/proc/self/fd/%d" % fd)) for fd in (one, other))
        return first is second

    def busy_errno(self, request: Request, *, folder: bool) -> int:
        """Return what the kernel answers to who makes, moves or removes the name of a mounted `folder` or file."""
        call = self._calls.get(request.nr, "")
        removes_folder = call == "rmdir" or (call == "unlinkat" and bool(request.args[2] & _REMOVEDIR))
        if call in ("unlink", "unlinkat", "rmdir") and removes_folder != folder:
            return EISDIR if folder else ENOTDIR
        return EEXIST if call.startswith(("mk", "link", "symlink")) else EBUSY

    def dot_errno(self, request: Request, name: bytes) -> int:
        """Return what the kernel answers to who makes, moves or removes `.` or `..`."""
        call = self._calls.get(request.nr, "")
        if call.startswith(("mk", "link", "symlink")):
            return EEXIST
        if call == "rmdir" or (call == "unlinkat" and request.args[2] & _REMOVEDIR):
            return EINVAL if name == b"." else ENOTEMPTY
        return EISDIR if call.startswith("unlink") else EBUSY

    def close(self) -> None:
        """Close every fd; twice is fine."""
        self.systems.close()
        for mount in self.mounts:
            if mount.cow is not None:
                mount.cow.close()
            if mount.root >= 0:
                os.close(mount.root)
            mount.root = -1
        self.origins.close()
        self.denials.close()
        self.table.close()
        for root in (self.root, self.host_root):
            if root >= 0:
                os.close(root)
        self.root = self.host_root = -1
