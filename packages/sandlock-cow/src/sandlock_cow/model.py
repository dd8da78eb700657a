"""What a branch tells: where a name was found, what changed, what is stored, how much."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import Enum

__all__ = ["Change", "Entry", "Found", "Kind", "Layer", "Name", "OpenAt", "State", "Usage"]


class Layer(Enum):
    """Where a name lives."""

    UPPER = "upper"  # made or changed in the branch
    LOWER = "lower"  # untouched: the real tree's
    WHITEOUT = "whiteout"  # removed in the branch, still there in the real tree
    ABSENT = "absent"  # in neither


class Kind(Enum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    DEVICE = "device"

    @classmethod
    def of(cls, mode: int) -> Kind:
        """The kind in `st_mode`."""
        return _KINDS.get(stat.S_IFMT(mode), cls.DEVICE)


_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}


@dataclass(frozen=True, slots=True)
class Found:
    """Where a path was found. Nothing is followed: a symlink is found as a symlink.

    Attributes:
        layer: UPPER or LOWER when it is there, WHITEOUT or ABSENT when it is not (its parent is).
        directory: fd (O_PATH) of the real directory that holds `name` (of the parent in the lower tree when the name is
            not there). It is borrowed, until the next call on the branch by any thread: use it, or `os.dup` it to keep
            it, within `with branch.beside:`. -1 for the root's parent: then `name` is b"." and `directory` the root
            itself.
        name: last component, for use with `directory` and O_NOFOLLOW.
        stat: attributes of the backing object, or None when it is not there. `st_dev` and `st_ino` are the backing
            file's; `Branch.identity(stat)` gives those that stay when the file is copied up.

    """

    layer: Layer
    directory: int
    name: bytes
    stat: os.stat_result | None

    @property
    def exists(self) -> bool:
        """Whether a program in the branch sees it."""
        return self.stat is not None


@dataclass(frozen=True, slots=True)
class OpenAt:
    """The last step of an open, ready to be made by anybody: `os.open(name, flags, mode, dir_fd=directory)`.

    Everything before it (copy-up, making the directory, quota) is done.

    Attributes:
        directory: real directory, an O_PATH fd borrowed until the next call on the branch, as `Found.directory` is.
        name: one component, or b"." for the directory itself.
        flags: those asked for, with O_NOFOLLOW and O_CLOEXEC, without O_CREAT and O_EXCL.
        mode: for O_TMPFILE, else 0.
        fd: -1; or, when the file had to be made, the fd of it, open as asked for, that the caller owns: then no step is
            left. (A new file may have a mode that forbids a second open.)

    """

    directory: int
    name: bytes
    flags: int
    mode: int
    fd: int = -1


@dataclass(frozen=True, slots=True)
class Name:
    """One name of a merged directory.

    Attributes:
        name: as stored, bytes, no slash.
        type: d_type, a `DT_*` number of dirent.h (4 directory, 8 file, 10 link, ...).
        inode: the number that `Branch.identity` gives for it.

    """

    name: bytes
    type: int
    inode: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a branch holds.

    Attributes:
        allocated: bytes of disk that its files occupy (blocks, as `du` counts), and `INODE_COST` for each entry.
        entries: files, directories, links and whiteouts in it.
        quota: bytes that it may hold, or None.

    """

    allocated: int
    entries: int
    quota: int | None

    @property
    def free(self) -> int | None:
        """Bytes that still fit, or None without a quota."""
        return None if self.quota is None else max(0, self.quota - self.allocated)


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a change.

    Attributes:
        kind: what it is.
        mode: permission bits, set-user-ID, set-group-ID and sticky included.
        size: bytes of a regular file, else 0.
        digest: SHA-256 of a regular file, as hexadecimal, else "". Also "" above 1 GiB of size, where it may be a hole
            that costs nothing to make, and for a file that may not be read.
        target: where a symlink points (surrogateescape), else "".

    """

    kind: Kind
    mode: int
    size: int = 0
    digest: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs between the real tree and the branch.

    Attributes:
        path: inside the branch, with `/`, lossless (surrogateescape: `os.fsencode` gives the bytes).
        before: what the real tree holds, None when nothing.
        after: what the branch shows, None when it was removed.
        late: why this runs later outside the sandbox ("git hook", "shell start-up file"), or "".

    """

    path: str
    before: Entry | None
    after: Entry | None
    late: str = ""

    @property
    def kind(self) -> str:
        """`A` added, `M` modified, `D` removed."""
        if self.before is None:
            return "A"
        return "M" if self.after is not None else "D"

    @property
    def type_changed(self) -> bool:
        """Whether one kind of entry took the place of another."""
        return self.before is not None and self.after is not None and self.before.kind is not self.after.kind

    @property
    def content_unchanged(self) -> bool:
        """Whether only attributes (mode, owner, times, extended attributes) changed."""
        if self.before is None or self.after is None or self.type_changed:
            return False
        if self.after.kind is Kind.FILE and not self.after.digest:
            return False  # nobody looked
        return (self.before.digest, self.before.target) == (self.after.digest, self.after.target)


class State(Enum):
    """What became of a branch that is in the storage and that nobody has open."""

    KEPT = "kept"  # somebody asked for it
    LEFT = "left"  # its process died
    COMMITTING = "committing"  # its process died in a commit: resuming finishes or undoes that first
