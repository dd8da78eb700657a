"""The fixtures `canary` and `tree`: files that a sandbox must not touch, and a folder to confine it to."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Canary", "Tree", "canary", "tree"]


@dataclass(frozen=True, slots=True)
class Canary:
    """A file with a secret in it that nothing may read or change.

    `secret` is the text to look for in whatever the sandbox printed; `check()` proves that the file is as it was.
    """

    path: Path
    secret: str
    fingerprint: str

    @classmethod
    def plant(cls, path: Path) -> Canary:
        """Write a fresh secret to `path`, readable by its owner only."""
        secret = f"canary-{secrets.token_hex(16)}"
        path.write_text(f"{secret}\n")
        path.chmod(0o600)
        return cls(path, secret, _fingerprint(path))

    def check(self) -> None:
        """Raise AssertionError if the file was changed, replaced, removed or had an attribute set."""
        assert os.path.lexists(self.path), f"canary {self.path} was removed"
        assert _fingerprint(self.path) == self.fingerprint, f"canary {self.path} was changed"


def _fingerprint(path: Path) -> str:
    """A hash of content and every attribute that a process may set, access time excepted."""
    found = path.lstat()
    content = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
    owner = (found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_mtime_ns)
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return hashlib.sha256(repr((content, owner, names)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder with a part to write, a part to read and a part to keep out of.

    `work` is empty; `read` holds `data.txt` (the text `readable`) and `tool.sh` (executable); `secret` the canary.
    """

    root: Path
    work: Path
    read: Path
    secret: Path
    canary: Canary
    readable: str = "readable"


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    """A canary of its own folder, checked when the test ends."""
    folder = tmp_path / "canary"
    folder.mkdir()
    planted = Canary.plant(folder / "canary.txt")
    yield planted
    planted.check()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """A fresh Tree; its canary is checked when the test ends."""
    root = tmp_path / "tree"
    work, read, secret = root / "work", root / "read", root / "secret"
    for folder in (root, work, read, secret):
        folder.mkdir()
    planted = Tree(root, work, read, secret, canary=Canary.plant(secret / "canary.txt"))
    (planted.read / "data.txt").write_text(planted.readable)
    tool = planted.read / "tool.sh"
    tool.write_text("#!/bin/sh\necho tool ran\n")
    tool.chmod(0o755)
    yield planted
    planted.canary.check()
