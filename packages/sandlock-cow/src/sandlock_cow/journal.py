"""The journal of a commit: what is to be done to the real tree, written down before it is, in the branch's folder.

    stage    temporary names may be in the real tree: undo removes them
    apply    everything is staged and flushed: redo finishes, every step can be repeated

The file is replaced whole (written beside, flushed, renamed), so it is always one of the two or not there.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Folder", "Journal", "Step", "drop", "read", "write"]

_FILE = "journal"
_BYTES = ("path", "temporary", "folder")


@dataclass(slots=True)
class Step:
    """One thing to do to the real tree.

    Attributes:
        action: `make` a directory, `place` something staged, `remove` a file, `rmdir`, or set `attributes` of a
            directory from the upper layer.
        path: where, inside the branch.
        temporary: name of what was staged, in the directory `folder`; b"" for none.
        folder: path of that directory.
        inode: inode number of what was staged, 0 before it is.
        exchange: something of another kind is at `path`, and changes places with what was staged.
        replaces: inode number of what is at `path` now, 0 for nothing.

    """

    action: str
    path: bytes
    temporary: bytes = b""
    folder: bytes = b""
    inode: int = 0
    exchange: bool = False
    replaces: int = 0


@dataclass(slots=True)
class Folder:
    """A directory of the real tree in which names will come and go, as it was."""

    path: bytes
    mode: int
    atime_ns: int
    mtime_ns: int


@dataclass(slots=True)
class Journal:
    """All of it.

    Attributes:
        phase: `stage` or `apply`.
        whole: whether this commits everything that the branch holds.
        steps: in the order in which they are done.
        folders: the directories that are worked in.

    """

    phase: str
    whole: bool
    steps: list[Step] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)


def _text(value: object) -> str:
    # Bytes as characters of the same number: lossless, and nothing in a name can end the string.
    if isinstance(value, bytes):
        return value.decode("latin-1")
    raise TypeError(f"{value!r} is not for a journal")


def write(folder: int, journal: Journal) -> None:
    """Replace the journal in the branch's folder, and flush it."""
    data = json.dumps(asdict(journal), default=_text).encode()
    fd = os.open(_FILE + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                 dir_fd=folder)  # fmt: skip
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    os.rename(_FILE + ".new", _FILE, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def read(folder: int) -> Journal | None:
    """The journal, None when no commit is under way."""
    try:
        fd = os.open(_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        data = json.load(file)
    steps = [Step(**_fields(entry)) for entry in data["steps"]]
    folders = [Folder(**_fields(entry)) for entry in data["folders"]]
    return Journal(data["phase"], data["whole"], steps, folders)


def _fields(entry: dict[str, Any]) -> dict[str, Any]:  # values of several types: what JSON gives
    return {key: value.encode("latin-1") if key in _BYTES else value for key, value in entry.items()}


def drop(folder: int) -> None:
    """The commit is over."""
    try:
        os.unlink(_FILE, dir_fd=folder)
    except FileNotFoundError:
        return
    os.fsync(folder)
