"""Requests that need no thought, served in C where they are taken: the interpreter never sees them.

    shortcut = Shortcut(listener, audit_arch, [Row(...)], ...)
    shortcut.judge_by(root=root, relative=True, marks=marks, denied=NO_MARKS, fence=NO_MARKS, names=names)
    notif.Exchange(listener).use(shortcut)

A call by path is served there if its path has none of certain names, starts outside of what is denied, and leads,
without a symlink, to an object that is not marked; a call on a socket if its destination is known
(`sandlock_sys.destinations`). All others are returned by `Exchange.take` as ever. So what a shortcut says must be what
whoever serves those would say.
"""

from __future__ import annotations

import os
from enum import IntEnum

from sandlock_sys._buffers import NULL, address, readable
from sandlock_sys._ffi import ffi, lib
from sandlock_sys.walk import NO_MARKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sandlock_sys._ffi import CData
    from sandlock_sys.deputy import Deputy
    from sandlock_sys.destinations import Destinations
    from sandlock_sys.walk import Marks

__all__ = ["MAX_NAMES", "MAX_ROWS", "BranchPlace", "Kind", "Row", "Shortcut"]

MAX_ROWS = 16  # SL_SHORTCUT_ROWS, _csrc/shortcut.h
MAX_NAMES = 64  # SL_SHORTCUT_NAMES
_FEW = 63  # inodes of a branch: the first table has room for half of them


class Kind(IntEnum):
    """What a call does with the object that its path leads to; `enum sl_shortcut_kind` in _csrc/shortcut.h."""

    STAT = 1
    """Writes struct stat to `value`."""
    STATX = 2
    """Writes struct statx to `value`; the mask is the argument before."""
    ACCESS = 3
    """Checks the mode `value`."""
    READLINK = 4
    """Writes the link's text to `value`; the size is the argument behind."""
    OPEN = 5
    """Lets the deputy open it, and puts the fd into the caller."""
    CONNECT = 6
    """Connects a socket to a known destination (`Destinations`); like the next it has no path."""
    SENDTO = 7
    """Sends a datagram to one."""


class Row:
    """How one system call is read.

    Attributes:
        kind: what it does.
        path: number of the argument that points to the path; -1: the call is about the fd itself.
        at: of the argument with the directory's fd; -1: the path starts in the working directory.
        value: of the argument that `kind` needs.
        flags: of the argument with the flags; -1: the flags are `fixed`.
        fixed: flags.

    """

    __slots__ = ("at", "fixed", "flags", "kind", "path", "value")

    def __init__(
        self, kind: Kind, path: int = 0, value: int = 0, *, at: int = -1, flags: int = -1, fixed: int = 0
    ) -> None:
        self.kind, self.path, self.value = kind, path, value
        self.at, self.flags, self.fixed = at, flags, fixed


class BranchPlace:
    """Where a copy-on-write folder is: two directories, of which the upper one hides the lower one.

    Attributes:
        upper, lower: O_PATH fds, borrowed.
        paths: what the kernel calls the two; the upper one lies in the folder of the storage.
        root: (st_dev, st_ino) of the folder, by which paths get into it; it has to be marked.
        whole: absolute paths start in it.
        starts: paths are served that start in one of its directories.
        names: of path components inside that are not served; with more than MAX_NAMES nothing inside is.

    """

    __slots__ = ("lower", "names", "paths", "root", "starts", "upper", "whole")

    def __init__(
        self,
        upper: int,
        lower: int,
        paths: tuple[bytes, bytes],
        root: tuple[int, int],
        *,
        names: Collection[bytes],
        whole: bool = False,
        starts: bool = True,
    ) -> None:
        self.upper, self.lower, self.paths, self.root = upper, lower, paths, root
        self.names, self.whole, self.starts = names, whole, starts


class Shortcut:
    """What may be served without the interpreter, for one listener. It serves nothing until `judge_by`.

    All but `forget`, `begin`, `end` and `show` is for the thread that takes the notifications, while it takes none.

    Arguments:
        listener: whose notifications are served, borrowed.
        arch: AUDIT_ARCH_* of the calls.
        rows: how calls are read, by their numbers; those behind MAX_ROWS are not served.
        wait_ns: how long the next notification is waited for after one that was served.
        blocked_ns: a deputy that has been in one call for longer gets no further one.
        privileged: capabilities of this thread are given up while files are looked at.

    Attributes:
        memory: what C works with.

    """

    __slots__ = ("_deputy", "_destinations", "_held", "_numbers", "_tables", "memory")

    def __init__(
        self,
        listener: int,
        arch: int,
        rows: dict[int, Row],
        *,
        wait_ns: int,
        blocked_ns: int,
        privileged: bool = False,
    ) -> None:
        self.memory = memory = ffi.new("struct sl_shortcut *")
        self._held: list[object] = []
        self._deputy: Deputy | None = None
        self._destinations: Destinations | None = None
        memory.stale = 1
        memory.listener, memory.arch, memory.privileged = listener, arch, privileged
        memory.wait_ns, memory.blocked_ns = wait_ns, blocked_ns
        memory.root = memory.branch.upper = memory.branch.lower = -1
        self._numbers, self._tables = 0, [_table_of(_FEW)]
        memory.branch.numbers = self._tables[0]
        memory.row_count = min(len(rows), MAX_ROWS)
        for place, (number, row) in zip(range(MAX_ROWS), rows.items(), strict=False):
            entry = memory.rows[place]
            entry.number, entry.kind, entry.path, entry.value = number, row.kind, row.path, row.value
            entry.at, entry.flags, entry.fixed = row.at, row.flags, row.fixed

    @property
    def address(self) -> int:
        """The address of `memory`, for a `sandlock_sys.turn.Turn`."""
        return address(self.memory)

    @property
    def served(self) -> int:
        """How many requests were served."""
        return int(self.memory.served)

    def served_by_number(self) -> dict[int, int]:
        """Return how many requests were served of each system call, by its number."""
        return {entry.number: int(entry.served) for entry in self.memory.rows[0 : self.memory.row_count]}

    @property
    def stale(self) -> bool:
        """Whether it has to be told anew what to judge by."""
        return bool(self.memory.stale)

    def forget(self) -> None:
        """Serve nothing that is taken from now on, until `judge_by`; for any thread."""
        self.memory.stale = 1

    def allow(self, count: int, until_ns: int = 0) -> None:
        """Serve at most `count` requests until this is called again, and none after `until_ns` (monotonic; 0: ever)."""
        self.memory.left, self.memory.until_ns = count, until_ns
        # Safety: nobody reads a table now, and the one to be read next is one of the last two: `show` is called by one
        # thread at a time, which may be anywhere in it.
        del self._tables[:-2]

    def judge_by(
        self,
        *,
        root: int,
        relative: bool,
        marks: Marks,
        names: Collection[bytes],
        closed: Marks = NO_MARKS,
        denied: Marks = NO_MARKS,
        fence: Marks = NO_MARKS,
        prompt: Marks = NO_MARKS,
        branch: BranchPlace | None = None,
    ) -> None:
        """Serve, from now on, what is not touched by these. They are to be read after `fresh` was called.

        Arguments:
            root: O_PATH fd where absolute paths start, borrowed; -1: they are not served.
            relative: whether paths that start elsewhere are served.
            marks: objects that are not served.
            names: of path components that are not served; with more than MAX_NAMES nothing is served.
            closed: directories at which no path may start.
            denied: directories below which no path may start.
            fence: where there are any, a path may start only below one of these.
            prompt: (st_dev, 0) of the file systems that ask nobody for an answer. What lies on others is only opened,
                by the deputy.
            branch: a copy-on-write folder, whose operations call `begin` and `end`.

        """
        memory = self.memory
        # Pointers in a structure keep nothing alive: nothing may be served by them until all are there, and held.
        memory.root = memory.branch.upper = -1
        memory.relative = 0
        held: list[CData] = [readable(data) for data in (marks.packed, closed.packed, denied.packed, fence.packed)]
        held.append(readable(prompt.packed))
        memory.marks, memory.closed, memory.denied, memory.fence, memory.prompt = held
        memory.mark_count, memory.closed_count = marks.count, closed.count
        memory.denied_count, memory.fence_count, memory.prompt_count = denied.count, fence.count, prompt.count
        fits = _write_names(memory, names, held)
        upper = -1 if branch is None else self._write_branch(branch, held)
        self._held = list(held)
        memory.root = root if fits else -1
        memory.relative = relative and fits and (branch is None or upper >= 0)  # it may lead into the branch
        memory.branch.upper = upper

    def _write_branch(self, place: BranchPlace, held: list[CData]) -> int:
        """Write all but the upper fd, and return that; -1: nothing of the branch is served."""
        branch = self.memory.branch
        for which, fd, path in (("upper", place.upper, place.paths[0]), ("lower", place.lower, place.paths[1])):
            text = readable(path + b"\0")
            held.append(text)
            setattr(branch, which + "_device", os.fstat(fd).st_dev)
            setattr(branch, which + "_path", text)
            setattr(branch, which + "_length", len(path))
        branch.folder_length = len(place.paths[0].rpartition(b"/")[0])
        branch.root.device, branch.root.inode = place.root
        branch.whole, branch.starts, branch.lower = place.whole, place.starts, place.lower
        return place.upper if _write_names(branch, place.names, held) else -1

    def begin(self) -> None:
        """Say that an operation on the branch begins; for who holds its lock, so for one thread at a time.

        Safety: nothing is served from the branch until `end`, and what was looked up before is not used after. The
        interpreter's lock changes hands around each system call, so nothing of it is seen before this.
        """
        self.memory.branch.begun += 1

    def end(self) -> None:
        """Say that it is over. Whoever changed what is judged by called `forget` before."""
        self.memory.branch.ended += 1

    def show(self, inode: int, shown: tuple[int, int] | None) -> None:
        """Show an inode of the branch's storage as another (st_dev, st_ino), or as itself; between `begin` and `end`.

        Safety: who reads a table at this moment may be anywhere in it, and finds out by `begin`; so none is freed here.
        """
        if lib.sl_numbers_put(self._tables[-1], inode, *(shown or (0, 0))):
            self._numbers += 1
        if 2 * self._numbers <= self._tables[-1][0]:
            return
        before, larger = self._tables[-1], _table_of(4 * self._numbers)
        self._numbers = lib.sl_numbers_move(before, larger)
        if 16 * self._numbers < larger[0]:  # most had gone, and a program that goes on so would fill this process
            larger = _table_of(max(4 * self._numbers, _FEW))
            lib.sl_numbers_move(before, larger)
        self._tables.append(larger)
        self.memory.branch.numbers = larger

    def fresh(self) -> None:
        """Say that `judge_by` comes next.

        Safety: whoever changes what is judged by calls `forget` after the change, and it is read after this. So either
        the change is read, or `forget` comes later and it is asked for again.
        """
        self.memory.stale = 0

    def open_by(self, deputy: Deputy | None) -> None:
        """Let `deputy` open files, until this is called again; before it is closed with None."""
        self._deputy = deputy
        self.memory.deputy = NULL if deputy is None else deputy.ring

    def reach(self, destinations: Destinations | None) -> None:
        """Let sockets reach known destinations, until this is called again; before they are closed with None."""
        self._destinations = destinations
        self.memory.destinations = NULL if destinations is None else destinations.memory

    @property
    def opens(self) -> bool:
        """Whether there is somebody to open files."""
        return self._deputy is not None


def _table_of(room: int) -> CData:
    """Return a table of numbers (_csrc/numbers.h) with at least `room` slots."""
    slots = 1 << room.bit_length()
    table = ffi.new("uint64_t[]", 1 + 3 * slots)
    table[0] = slots - 1
    return table


def _write_names(memory: CData, names: Collection[bytes], held: list[CData]) -> bool:
    """Write names into a structure, if they are not too many; the memory that they need is added to `held`."""
    ordered: Sequence[bytes] = sorted(names)
    fits = len(ordered) <= MAX_NAMES
    block = readable(b"\0".join(ordered) + b"\0")
    held.append(block)
    memory.names, memory.name_count = block, len(ordered) if fits else 0
    at = 0
    for place, name in enumerate(ordered if fits else ()):
        memory.name_at[place] = at
        at += len(name) + 1
    return fits
