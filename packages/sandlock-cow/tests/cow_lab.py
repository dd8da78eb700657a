"""A small real tree to branch from, its fingerprint, and views of a tree that can be compared."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from sandlock_cow import Branch
from sandlock_cow.removing import remove_tree

Fingerprint = dict[bytes, tuple[object, ...]]


class Lab:
    """`lower` holds files, a directory, a symlink, a FIFO and a pair of hard links; `branch()` opens a branch of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lower = root / "lower"
        self.storage = root / "storage"
        self.lower.mkdir()
        (self.lower / "file").write_text("file")
        (self.lower / "other").write_text("other")
        (self.lower / "directory" / "inner").mkdir(parents=True)
        (self.lower / "directory" / "one").write_text("one")
        (self.lower / "directory" / "inner" / "two").write_text("two")
        (self.lower / "link").symlink_to("file")
        os.mkfifo(self.lower / "fifo")
        (self.lower / "linked").write_text("linked")
        os.link(self.lower / "linked", self.lower / "directory" / "linked too")
        self._branches: list[Branch] = []

    def branch(self, *, quota: int | None = None, backend: str = "served") -> Branch:
        branch = Branch(str(self.lower), storage=str(self.storage), quota=quota, backend=backend)
        self._branches.append(branch)
        return branch

    def resume(self, path: str) -> Branch:
        branch = Branch.resume(path)
        self._branches.append(branch)
        return branch

    def close(self) -> None:
        for branch in self._branches:
            branch.close()

    def fingerprint(self) -> Fingerprint:
        return fingerprint(self.lower)


def fingerprint(root: Path) -> Fingerprint:
    """Everything about a tree that a bare look can tell, change and access times left out."""
    found: Fingerprint = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        content: bytes = b""
        if stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).digest()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(os.fsencode(path))
        names = sorted(os.listxattr(path, follow_symlinks=False))
        xattrs = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
        key = os.fsencode(path.relative_to(root))
        owner = (status.st_ino, status.st_mode, status.st_nlink, status.st_uid, status.st_gid, status.st_mtime_ns)
        found[key] = (*owner, status.st_size if not stat.S_ISDIR(status.st_mode) else 0, content, xattrs)
    return found


def write(branch: Branch, path: bytes, content: bytes, flags: int = os.O_CREAT | os.O_TRUNC, mode: int = 0o644) -> None:
    """Write a file through the branch."""
    fd = branch.open(path, os.O_WRONLY | flags, mode)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def read(branch: Branch, path: bytes) -> bytes:
    """Read a file through the branch."""
    fd = branch.open(path, os.O_RDONLY)
    with open(fd, "rb") as file:
        return file.read()


def names(branch: Branch, path: bytes = b"") -> list[bytes]:
    """The names in a directory of the branch."""
    return [entry.name for entry in branch.listdir(path)]


def clear(root: Path) -> None:
    """Remove a tree whatever its modes."""
    above = os.open(root.parent, os.O_RDONLY)
    try:
        remove_tree(above, os.fsencode(root.name))
    finally:
        os.close(above)
