"""What an image holds, as plain data for people and programs; and whether all of it is as it was saved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sandlock_checkpoint.image.format import BLOCK
from sandlock_checkpoint.image.layout import Stream, total
from sandlock_checkpoint.image.load import load_parent
from sandlock_checkpoint.image.page_writer import Progress
from sandlock_checkpoint.image.save import areas_of
from sandlock_checkpoint.image.strict_json import Json

if TYPE_CHECKING:
    from sandlock_checkpoint.image.parent import Parent
    from sandlock_checkpoint.model import ProcessInfo

__all__ = ["show", "verify"]

_SLICE = 16 * BLOCK


def show(path: str | os.PathLike[str], *, owner: int | None = None) -> dict[str, Json]:
    """Return what the image at `path` is of: JSON values only. Its metadata has been checked, memory has not.

    Raises:
        ImageError: as `load`.

    """
    image = load_parent(os.fspath(path), owner)
    try:
        return _summary(image)
    finally:
        image.source.close()


def verify(
    path: str | os.PathLike[str], *, owner: int | None = None, progress: Progress | None = None
) -> dict[str, Json]:
    """Read all of the image at `path`, what its ancestors hold of it too, and return what `show` does.

    Raises:
        ImageError: anything is not as it was saved.

    """
    image = load_parent(os.fspath(path), owner)
    try:
        areas = areas_of(image.checkpoint)
        size = sum(total(runs) for _, runs in areas)
        buffer = memoryview(bytearray(min(_SLICE, size)))
        done = 0
        for area, runs in areas:
            stream = Stream(runs)
            for start in range(0, stream.size, _SLICE):
                count = min(_SLICE, stream.size - start)
                image.source.read(area, list(stream.pieces(start, count)), buffer[:count])
                done += count
                if progress:
                    progress(done, size)
        for parts in image.source.parts.values():
            for part in parts:
                part.file.check_gaps()
        return _summary(image)
    finally:
        image.source.close()


def _summary(image: Parent) -> dict[str, Json]:
    checkpoint = image.checkpoint
    inherited = sum(
        total(part.runs)
        for area, parts in image.source.parts.items()
        for part, origin in zip(parts, image.origins[area], strict=True)
        if origin.ancestor
    )
    contents = sum(total(runs) for _, runs in areas_of(checkpoint))
    processes: list[Json] = [_process(process) for process in checkpoint.processes]
    unsupported: list[Json] = [
        {"name": one.name, "kind": one.kind, "reason": one.reason} for one in checkpoint.unsupported
    ]
    return {
        "name": checkpoint.name,
        "digest": image.ancestors[0].sha256,
        "architecture": checkpoint.architecture,
        "kernel": checkpoint.kernel,
        "page_size": checkpoint.page_size,
        "captured_ns": checkpoint.captured_ns,
        "scope": checkpoint.scope.value,
        "processes": processes,
        "open_files": len(checkpoint.files),
        "shared_memory": len(checkpoint.shared),
        "contents_bytes": contents,
        "inherited_bytes": inherited,
        "unread_bytes": image.unread_bytes,
        "ancestors": _names([one.name for one in image.ancestors[1:]]),
        "unsupported": unsupported,
        "policy": bool(checkpoint.policy),
        "app_state_bytes": None if checkpoint.app_state is None else len(checkpoint.app_state),
        "cow": checkpoint.cow is not None,
    }


def _process(process: ProcessInfo) -> dict[str, Json]:
    return {
        "pid": process.pid,
        "parent": process.parent,
        "name": os.fsdecode(process.threads[0].name),
        "exe": os.fsdecode(process.exe),
        "cwd": os.fsdecode(process.cwd),
        "threads": len(process.threads),
        "descriptors": len(process.descriptors),
        "mappings": len(process.mappings),
        "mapped_bytes": sum(mapping.size for mapping in process.mappings),
        "contents_bytes": sum(total(mapping.runs) for mapping in process.mappings),
    }


def _names(names: Sequence[str]) -> list[Json]:
    return list(names)
