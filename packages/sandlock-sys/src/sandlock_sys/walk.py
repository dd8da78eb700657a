"""Walks along a path that know every object they go through by identity, and stop at marked ones (openat(2), statx(2)).

    marks = Marks([(device, inode), ...])
    walked = Walker().walk(root, b"srv/data/file", 0, marks)    # O_PATH fds, never through a symlink

The kernel's own walk tells where it arrived, not through what: whoever must not pass a certain directory, whatever its
name is by now, has to look at each step. Nothing is opened for reading, so no FIFO, device or lease is waited for.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from errno import ENOENT
from struct import Struct, pack

from sandlock_sys._buffers import writable
from sandlock_sys._call import check
from sandlock_sys._ffi import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

__all__ = ["NO_MARKS", "Flag", "Marks", "Outcome", "Walked", "Walker", "climb", "device_of"]

_RESULT = Struct("=iiIiIIQQII")  # struct sl_walk, _csrc/walk.h

Walked: TypeAlias = "tuple[int, int, int, int, int, int, int, int, int, int]"
"""Where a walk ended: directory, object, outcome, error, begin, end, device, inode, mode, last.

directory: O_PATH fd of what holds the object, the caller's; -1 where that is the start. object: O_PATH fd, the
caller's; -1 for none, or where it is the start. outcome: an `Outcome`. error: errno, with ERROR. begin, end: of the
component in the path; equal where no component names the object (`/`, or `.` at the end). device, inode, mode: of the
object. last: 1 when only slashes follow.
"""


class Flag(IntFlag):
    """How to walk; `enum` in _csrc/walk.h."""

    NO_FOLLOW = 1
    """A symlink as the last component is the end."""
    JUDGED = 2
    """The mark of the start does not stop."""
    CACHED = 4
    """Never wait for a file system: EAGAIN where the kernel does not know the name already (5.12)."""
    STOP_UP = 8
    """Stop before each `..`."""
    PARENT = 16
    """The last component names what is to be made or removed: `.`, `..` and slashes behind it stay as they are."""


class Outcome(IntEnum):
    """Where a walk ended; `enum sl_walk_outcome` in _csrc/walk.h."""

    END = 0
    """At the last component."""
    ABSENT = 1
    """The last component is not there; its directory is."""
    LINK = 2
    """At a symlink that has to be followed."""
    MARK = 3
    """At a marked object, the start included."""
    UP = 4
    """Before a `..`, with STOP_UP."""
    ERROR = 5
    """Nothing is held."""


class Marks:
    """A set of identities, (st_dev, st_ino), in the form that a walk looks them up in."""

    __slots__ = ("count", "identities", "packed")

    def __init__(self, identities: Iterable[tuple[int, int]]) -> None:
        self.identities = tuple(sorted(set(identities)))
        self.count = len(self.identities)
        self.packed = pack(f"={2 * self.count}Q", *[number for pair in self.identities for number in pair])

    def __len__(self) -> int:
        return self.count


NO_MARKS = Marks(())


class Walker:
    """A buffer for the result of one walk at a time: made once per thread that walks."""

    __slots__ = ("_memory", "_pointer")

    def __init__(self) -> None:
        self._memory = bytearray(_RESULT.size)
        self._pointer = writable(self._memory)

    def walk(self, start: int, path: bytes, flags: int, marks: Marks) -> Walked:
        """Walk from the directory fd `start` along `path`, relative to it whether it begins with a slash or not.

        There may be no NUL in the path.
        """
        lib.sl_walk(start, path, len(path), flags, marks.packed, marks.count, self._pointer)
        return _RESULT.unpack(self._memory)

    def find(self, start: int, path: bytes, flags: int, marks: Marks) -> Walked:
        """As `walk`, in one step of the kernel's that looks only at the object, and tells no directory.

        For a path that cannot go through a marked object but at its end. ERROR with ELOOP where a symlink has to be
        followed. `flags` are CACHED and NO_FOLLOW.
        """
        lib.sl_find(start, path, flags, marks.packed, marks.count, self._pointer)
        return _RESULT.unpack(self._memory)


def climb(start: int, marks: Marks) -> tuple[int, int] | None:
    """Return the identity of the first marked directory from `start` upwards, itself included; None up to the root.

    Raises:
        SyscallError: a directory above may not be searched, or there are more than 4096.

    """
    found = lib.sl_climb(start, marks.packed, marks.count)
    if found == -ENOENT:
        return None
    return marks.identities[check("openat2", found, "..")]


def device_of(fd: int) -> int:
    """Return st_dev of what `fd` leads to, as the kernel knows it, without asking a file system that has a server."""
    memory = bytearray(_RESULT.size)
    lib.sl_look(fd, NO_MARKS.packed, 0, writable(memory))
    _, _, outcome, error, *_, device, _, _, _ = _RESULT.unpack(memory)
    check("statx", -error if outcome == Outcome.ERROR else 0)
    return int(device)
