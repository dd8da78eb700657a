"""Write a checkpoint as an image."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.check import check_checkpoint
from sandlock_checkpoint.image.cow import copy_branch
from sandlock_checkpoint.image.format import (
    FORMAT,
    LIMITS,
    RAW,
    VERSION,
    ZSTD,
    Ancestor,
    Contents,
    CowSnapshot,
    Descriptors,
    FileEntry,
    MappedArea,
    MemoryMap,
    Meta,
    Policy,
    RegisterFile,
    SharedArea,
    data_name,
    process_folder,
)
from sandlock_checkpoint.image.layout import total
from sandlock_checkpoint.image.meta import sealed
from sandlock_checkpoint.image.page_writer import PageWriter, Progress
from sandlock_checkpoint.image.parent import Changed, Parent, ParentPages
from sandlock_checkpoint.image.publish import NewImage
from sandlock_checkpoint.image.schema import encode
from sandlock_checkpoint.image.strict_json import Json, canonical
from sandlock_checkpoint.memory import Area, Run
from sandlock_checkpoint.terms import Leave

if TYPE_CHECKING:
    from sandlock_checkpoint.model import Checkpoint

__all__ = ["areas_of", "save"]


def save(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    compression: str = RAW,
    parent: str | os.PathLike[str] | None = None,
    changed: Changed | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> str:
    """Write `checkpoint` to the directory `path`, and close it.

    The image is written under another name beside `path`, is on the disk when it takes its place, and takes it in one
    step: `path` is the image that was there, or the new one. The checkpoint is closed as soon as its memory has been
    read; processes that are to be killed or stopped wait for the image to be in its place, and run on if this fails.

    Arguments:
        checkpoint: from `capture` or `load`; in the thread that captured.
        path: where; an image that is there is replaced, anything else is refused.
        compression: "none" or "zstd" (needs the package zstandard). Compressing is done while the process is stopped,
            and a compressed image cannot be mapped for a lazy restore.
        parent: an image in the same directory. Pages that it has are not written again; it is needed to load this one.
        changed: with `parent`: asked for which of an area's runs may differ from it; it must know. By default the
            tracker of the capture is asked. Where nobody knows (None) contents are compared.
        threads: that write, compress and make checksums; by default one for each CPU, four at most.
        progress: called in this thread with the bytes that have been read and those there are.

    Returns:
        The digest that names the image: of meta.json, which holds those of all other files.

    Raises:
        CaptureError: memory could not be read.
        ImageError: the checkpoint is not one that a load would take, the file system refused (the `OSError` is the
            cause), or `path` or `parent` will not do.

    """
    from sandlock_checkpoint.image.load import load_parent  # only an incremental save reads an image

    target = os.path.abspath(os.fspath(path))
    old: Parent | None = None
    try:
        if compression not in (RAW, ZSTD):
            raise ImageError(target, "compression", f"{compression!r} is neither {RAW!r} nor {ZSTD!r}")
        check_checkpoint(checkpoint)
        with NewImage(target) as image:
            if parent is not None:
                old = load_parent(os.path.abspath(os.fspath(parent)))
                _check_beside(image, old, target)
            pages = ParentPages(old, checkpoint, changed or _told(checkpoint, old)) if old else None
            writer = _Writer(image, checkpoint, compression, threads or _threads())
            digest = writer.write(pages, old.ancestors if old else (), progress)
            image.publish()
        _finish(checkpoint, digest)
    except OSError as error:
        raise ImageError(target, "", f"could not be written: {error.strerror or error}") from error
    finally:
        checkpoint.abandon()  # does nothing to one that is closed
        if old is not None:
            old.source.close()
    return digest


def areas_of(checkpoint: Checkpoint) -> list[tuple[Area, Sequence[Run]]]:
    """Return every area that has contents, with its runs."""
    found: list[tuple[Area, Sequence[Run]]] = [
        (Area(number, index), mapping.runs)
        for number, process in enumerate(checkpoint.processes)
        for index, mapping in enumerate(process.mappings)
        if mapping.runs
    ]
    found += [(Area(-1, index), memory.runs) for index, memory in enumerate(checkpoint.shared) if memory.runs]
    return found


class _Writer:
    """Writes the files of one image in their order: page contents first, since a process waits for that."""

    def __init__(self, image: NewImage, checkpoint: Checkpoint, compression: str, threads: int) -> None:
        self._image = image
        self._checkpoint = checkpoint
        self._compression = compression
        self._threads = threads
        self._entries: list[FileEntry] = []

    def write(self, pages: ParentPages | None, ancestors: Sequence[Ancestor], progress: Progress | None) -> str:
        checkpoint = self._checkpoint
        for index in range(len(checkpoint.processes)):
            folder = process_folder(index)
            for name in (folder, f"{folder}/threads", f"{folder}/memory"):
                self._image.make_folder(name)
        contents = self._pages(pages, progress)
        used = sorted({one.ancestor for each in contents.values() for one in each.inherited})
        contents = {area: _renumbered(each, used) for area, each in contents.items()}
        for index in range(len(checkpoint.processes)):
            self._process(index, contents)
        self._json("policy.json", encode(Policy(checkpoint.policy)))
        if checkpoint.app_state is not None:
            self._file("app_state.bin", checkpoint.app_state, LIMITS["app_state.bin"])
        cow = self._cow(checkpoint.cow) if checkpoint.cow is not None else None
        unread = pages.unread if pages else 0
        meta, data = sealed(self._meta(tuple(ancestors[one] for one in used), cow, unread))
        self._image.write("meta.json", _bounded("meta.json", data, LIMITS["meta.json"]))
        return meta.sha256

    def _pages(self, pages: ParentPages | None, progress: Progress | None) -> dict[Area, Contents]:
        areas = areas_of(self._checkpoint)
        size = sum(total(runs) for _, runs in areas)
        with PageWriter(
            self._image, self._checkpoint.source, compression=self._compression, threads=self._threads,
            checksum_now=size > _cache_bytes(), parent=pages, progress=progress, size=size,
        ) as writer:  # fmt: skip
            for area, runs in areas:
                process, index = area
                name = data_name(index, shared=process < 0)
                writer.write(area, runs, f"{process_folder(max(process, 0))}/{name}")
            # An image that is read may be the one that is replaced: it is not held on to.
            if self._checkpoint.leave is Leave.RUNNING or self._checkpoint.spare is None:
                self._checkpoint.close()
            contents, entries = writer.finish()
        self._entries += entries
        return contents

    def _process(self, index: int, contents: dict[Area, Contents]) -> None:
        checkpoint, process, folder = self._checkpoint, self._checkpoint.processes[index], process_folder(index)
        first = index == 0
        self._json(f"{folder}/info.json", encode(process, frozenset({"mappings", "threads", "descriptors"})))
        tables = (checkpoint.files, checkpoint.pipes, checkpoint.sockets) if first else ((), (), ())
        self._json(f"{folder}/fds.json", encode(Descriptors(process.descriptors, *tables)))
        mappings = [
            MappedArea(one, _all_own(contents.get(Area(index, place)), one.runs))
            for place, one in enumerate(process.mappings)
        ]
        shared = [
            SharedArea(one, _all_own(contents.get(Area(-1, place)), one.runs))
            for place, one in enumerate(checkpoint.shared if first else ())
        ]
        self._json(f"{folder}/memory_map.json", encode(MemoryMap(tuple(mappings), tuple(shared))))
        for place, thread in enumerate(process.threads):
            sets: list[Json] = [encode(RegisterFile(one.name, one.note)) for one in thread.registers]
            state = encode(thread, frozenset({"registers"}))
            self._json(f"{folder}/threads/{place}.json", {"registers": sets, "state": state}, "thread.json")
            for one in thread.registers:
                self._file(f"{folder}/threads/{place}.{one.name}.bin", one.data, len(one.data))

    def _cow(self, source: str) -> CowSnapshot:
        self._image.make_folder("cow")
        target = os.open("cow", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._image.fd)
        try:
            return copy_branch(source, target)
        finally:
            os.close(target)

    def _meta(self, ancestors: tuple[Ancestor, ...], cow: CowSnapshot | None, unread: int) -> Meta:
        checkpoint = self._checkpoint
        return Meta(
            format=FORMAT, version=VERSION, name=checkpoint.name, architecture=checkpoint.architecture,
            kernel=checkpoint.kernel, page_size=checkpoint.page_size, captured_ns=checkpoint.captured_ns,
            monotonic_ns=checkpoint.monotonic_ns, scope=checkpoint.scope, leave=checkpoint.leave,
            vdso_digest=checkpoint.vdso_digest, unsupported=checkpoint.unsupported,
            threads=tuple(len(process.threads) for process in checkpoint.processes), compression=self._compression,
            ancestors=ancestors, unread_bytes=unread, cow=cow,
            files=tuple(sorted(self._entries, key=lambda entry: entry.name)), sha256="",
        )  # fmt: skip

    def _json(self, name: str, value: Json, kind: str = "") -> None:
        self._file(name, canonical(value) + b"\n", LIMITS[kind or name.rpartition("/")[2]])

    def _file(self, name: str, data: bytes, limit: int) -> None:
        self._image.write(name, _bounded(name, data, limit))
        self._entries.append(FileEntry(name, len(data), hashlib.sha256(data).hexdigest()))


def _bounded(name: str, data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise ImageError(name, "", f"would have {len(data)} bytes, more than the {limit} that a load takes")
    return data


def _all_own(contents: Contents | None, runs: tuple[Run, ...]) -> Contents | None:
    """Leave out the list of own runs where it would repeat the area's."""
    if contents is None or contents.inherited or not runs:
        return contents
    return dataclasses.replace(contents, own=None)


def _renumbered(contents: Contents, used: list[int]) -> Contents:
    """Count ancestors in `used`."""
    if not contents.inherited:
        return contents
    inherited = tuple(dataclasses.replace(one, ancestor=used.index(one.ancestor)) for one in contents.inherited)
    return dataclasses.replace(contents, inherited=inherited)


def _told(checkpoint: Checkpoint, parent: Parent) -> Changed | None:
    """Return what the tracker of the capture knows, who has seen the parent being saved."""
    return partial(checkpoint.tracking.changed_since, parent.ancestors[0].sha256) if checkpoint.tracking else None


def _finish(checkpoint: Checkpoint, digest: str) -> None:
    """The image stands: who watches may take it as a parent, and the processes are let go."""
    if checkpoint.tracking is not None:
        checkpoint.tracking.saved(digest)
    checkpoint.close()


def _check_beside(image: NewImage, parent: Parent, path: str) -> None:
    """A parent is found by its name beside the image, and is not the image that is being replaced."""
    above = parent.source.folders[0].parent()
    try:
        beside = os.path.sameopenfile(above, image.folder)
    finally:
        os.close(above)
    if not beside:
        raise ImageError(path, "", "is not in the directory of its parent, where it would look for it")
    if image.name in [one.name for one in parent.ancestors]:
        raise ImageError(path, "", "is its own parent, or that one needs it: save under another name")


def _threads() -> int:
    return max(1, min(4, len(os.sched_getaffinity(0))))


def _cache_bytes() -> int:
    """Return how much may be written and still be in the page cache afterwards."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 // 2
    return 0
