"""Older versions of the image format, read as the present one; and rewritten as it.

Each version has one function that gives its meta.json the form of the next one, and says how its other JSON files are
to be changed after they have been checked. They are run one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.folder import ImageFolder
from sandlock_checkpoint.image.format import BLOCK, RAW, VERSION
from sandlock_checkpoint.image.meta import digest_of
from sandlock_checkpoint.image.strict_json import Json

__all__ = ["Fix", "Fixes", "to_present", "upgrade"]

Fix: TypeAlias = Callable[[Json], Json]
Fixes: TypeAlias = dict[str, Fix]
"""By the name of a JSON file (thread.json for threads/N.json): from the older form to the next."""


def to_present(folder: ImageFolder, meta: dict[str, Json], version: int) -> tuple[Json, Fixes]:
    """Return meta.json and the fixes of the other files, as of the present version.

    Raises:
        ImageError: meta.json has not the form of its version.

    """
    fixes: Fixes = {}
    value = dict(meta)
    for step in range(version, VERSION):
        value, added = _STEPS[step](folder, value)
        for name, fix in added.items():
            fixes[name] = _chained(fixes.get(name), fix)
    value["version"] = VERSION
    value["sha256"] = digest_of(value)
    return value, fixes


def upgrade(path: str | os.PathLike[str]) -> bool:
    """Rewrite the image at `path` in the present version of the format, atomically; False when it is that already.

    Raises:
        ImageError: it cannot be read, or not be written.

    """
    # Imported here: a load needs this module.
    from sandlock_checkpoint.image.load import load
    from sandlock_checkpoint.image.meta import parse_meta
    from sandlock_checkpoint.image.save import save

    folder = ImageFolder.open(os.fspath(path))
    try:
        value, version = parse_meta(folder.read("meta.json", 1 << 25))
    finally:
        folder.close()
    if version == VERSION:
        return False
    compression = value.get("compression", RAW)
    save(load(path), path, compression=compression if isinstance(compression, str) else RAW)
    return True


def _chained(first: Fix | None, second: Fix) -> Fix:
    if first is None:
        return second
    return lambda value: second(first(value))


def _from_0(folder: ImageFolder, meta: dict[str, Json]) -> tuple[dict[str, Json], Fixes]:
    """Version 0 had one process, raw sparse data without ancestors, and checksums without sizes or one of its own."""
    checksums = meta.pop("checksums", None)
    if not isinstance(checksums, dict):
        raise ImageError("meta.json", "checksums", "is not an object")
    files: list[Json] = []
    for name in sorted(checksums):
        if ".." in name.split("/") or name.startswith("/") or "\0" in name:
            raise ImageError("meta.json", "checksums", f"{name!r} is no name in an image")
        fd, size = folder.open_file(name)
        os.close(fd)
        files.append({"name": name, "size": size, "sha256": checksums[name]})
    if isinstance(meta.get("threads"), list):
        raise ImageError("meta.json", "threads", "is not an integer")
    meta |= {
        "threads": [meta.get("threads")],
        "files": files,
        "compression": RAW,
        "ancestors": [],
        "unread_bytes": 0,
        "cow": None,
        "scope": "process",
    }
    return meta, {"memory_map.json": _memory_map_from_0}


def _memory_map_from_0(value: Json) -> Json:
    """Version 0 was a list of mappings, each with "file" and "blocks" beside its own fields."""
    if not isinstance(value, list):
        raise ImageError("process/memory_map.json", "", "is not a list")
    mappings: list[Json] = []
    for index, one in enumerate(value):
        if not isinstance(one, dict):
            raise ImageError("process/memory_map.json", f"[{index}]", "is not an object")
        mapping = dict(one)
        file, blocks = mapping.pop("file_name", None), mapping.pop("blocks", None)
        contents: Json = None
        if file is not None:
            contents = {
                "file": file, "layout": "sparse", "own": None, "blocks": blocks, "stored": [], "inherited": [],
            }  # fmt: skip
        mappings.append({"mapping": mapping, "contents": contents})
    return {"mappings": mappings, "shared": []}


_STEPS: dict[int, Callable[[ImageFolder, dict[str, Json]], tuple[dict[str, Json], Fixes]]] = {0: _from_0}

# A block's size is part of the format: another one needs a new version and a step that says so here.
assert BLOCK == 1 << 20, "version 1"  # noqa: S101 - a fact about two constants
