"""The files of one image, each read once, bounded, and checked against meta.json."""

from __future__ import annotations

import hashlib
import os

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.folder import ImageFolder
from sandlock_checkpoint.image.format import (
    LIMITS,
    MAX_REGISTERS,
    VERSION,
    FileEntry,
    MemoryMap,
    Meta,
    process_folder,
)
from sandlock_checkpoint.image.meta import decode_meta, parse_meta
from sandlock_checkpoint.image.schema import decode
from sandlock_checkpoint.image.strict_json import Json, parse
from sandlock_checkpoint.image.upgrade import Fixes, to_present

__all__ = ["ImageReader"]


class ImageReader:
    """An open image.

    Attributes:
        folder: its directory; this object's until it is given to an `ImageSource`.
        meta: meta.json, of the present version.

    """

    def __init__(self, folder: ImageFolder, meta: Meta, fixes: Fixes) -> None:
        self.folder = folder
        self.meta = meta
        self._fixes = fixes
        self._entries = {entry.name: entry for entry in meta.files}
        self._used: set[str] = set()
        self._maps: dict[int, MemoryMap] = {}

    @classmethod
    def open(cls, path: str, owner: int | None = None, directory: int | None = None) -> ImageReader:
        """Open the image at `path` (below the fd `directory`), and read its meta.json.

        Raises:
            ImageError: it is none, or none that can be read.

        """
        folder = ImageFolder.open(path, owner, directory)
        try:
            raw, version = parse_meta(folder.read("meta.json", LIMITS["meta.json"]))
            fixes: Fixes = {}
            value: Json = raw
            if version < VERSION:
                value, fixes = to_present(folder, raw, version)
            meta = decode_meta(value)
        except BaseException:
            folder.close()
            raise
        return cls(folder, meta, fixes)

    def entry(self, name: str) -> FileEntry:
        """Return what meta.json says about a file; it counts as one that the image must have.

        Raises:
            ImageError: it says nothing.

        """
        self._used.add(name)
        entry = self._entries.get(name)
        if entry is None:
            raise ImageError("meta.json", "files", f"{name} is missing")
        return entry

    def has(self, name: str) -> bool:
        """Tell whether meta.json lists the file."""
        return name in self._entries

    def data(self, name: str, limit: int = MAX_REGISTERS) -> bytes:
        """Return the contents of a file of at most `limit` bytes.

        Raises:
            ImageError: its size or its checksum is not what meta.json says.

        """
        entry = self.entry(name)
        data = self.folder.read(name, limit)
        if len(data) != entry.size:
            raise ImageError(name, "", f"has {len(data)} bytes, not {entry.size}")
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ImageError(name, "", "its checksum does not fit: the file has been changed or damaged")
        return data

    def json(self, name: str, kind: str = "") -> Json:
        """Return what is in a JSON file; `kind` names its limit where that is not its name."""
        value = parse(self.data(name, LIMITS[kind or name.rpartition("/")[2]]), name)
        fix = self._fixes.get(kind or name.rpartition("/")[2])
        return fix(value) if fix else value

    def memory_map(self, process: int) -> MemoryMap:
        """Return a process's memory map, read once."""
        if process not in self._maps:
            name = f"{process_folder(process)}/memory_map.json"
            self._maps[process] = decode(MemoryMap, self.json(name), name)
        return self._maps[process]

    def check_names(self) -> None:
        """Compare the names in all directories, and in meta.json, with those that have been asked for.

        Raises:
            ImageError: there is another one.

        """
        for name in self._entries:
            if name not in self._used:
                raise ImageError("meta.json", "files", f"{name} is no part of this image")
        folders: dict[str, set[str]] = {"": {"meta.json"} | ({"cow"} if self.meta.cow else set())}
        for index in range(len(self.meta.threads)):
            folder = process_folder(index)
            folders |= {f"{folder}/threads": set(), f"{folder}/memory": set()}
        for name in (*self._used, *folders):
            while name:
                above, _, last = name.rpartition("/")
                folders.setdefault(above, set()).add(last)
                name = above  # noqa: PLW2901 - up to the image's directory
        for folder, expected in folders.items():
            for extra in sorted(self.folder.names(folder) - expected):
                raise ImageError(os.path.join(folder, extra), "", "is no part of this image")
