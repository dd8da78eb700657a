"""From a memory map's contents to data files that can be read; every claim in it is checked against the others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.compress import most_stored
from sandlock_checkpoint.image.data_file import DataFile
from sandlock_checkpoint.image.format import PACKED, RAW, SPARSE, Contents, data_name, process_folder
from sandlock_checkpoint.image.layout import Stream, data_size, merge
from sandlock_checkpoint.image.meta import check_digest
from sandlock_checkpoint.image.reader import ImageReader
from sandlock_checkpoint.image.source import Part
from sandlock_checkpoint.memory import Area, Run

__all__ = ["AncestorAreas", "areas_in", "own_part", "parts_of"]


class AncestorAreas:
    """What another image holds itself."""

    def __init__(self, reader: ImageReader) -> None:
        self._reader = reader
        self._areas = {area: (runs, contents) for area, runs, contents in areas_in(reader)}
        self._parts: dict[Area, Part | None] = {}

    def part(self, area: Area) -> Part | None:
        """Return what it holds of an area, None when that is nothing."""
        if area not in self._parts:
            runs, contents = self._areas.get(area, ((), None))
            self._parts[area] = own_part(self._reader, area, runs, contents) if contents else None
        return self._parts[area]


def areas_in(reader: ImageReader) -> Iterator[tuple[Area, tuple[Run, ...], Contents]]:
    """Yield every area of an image that has contents, with its runs, and where they are.

    Raises:
        ImageError: contents are there without runs, or runs without contents.

    """
    for process in range(len(reader.meta.threads)):
        found = reader.memory_map(process)
        file = f"{process_folder(process)}/memory_map.json"
        if process and found.shared:
            raise ImageError(file, "shared", "stands with the first process only")
        each: list[tuple[Area, tuple[Run, ...], Contents | None, str]] = [
            (Area(process, index), one.mapping.runs, one.contents, f"mappings[{index}]")
            for index, one in enumerate(found.mappings)
        ]
        each += [
            (Area(-1, index), one.memory.runs, one.contents, f"shared[{index}]")
            for index, one in enumerate(found.shared)
        ]
        for area, runs, contents, field in each:
            if (contents is not None) != bool(runs):
                raise ImageError(file, f"{field}.contents", "must be there for runs, and only then")
            if contents is not None:
                yield area, runs, contents


def own_part(reader: ImageReader, area: Area, runs: Sequence[Run], contents: Contents) -> Part | None:
    """Return what of an area is in the image itself.

    Raises:
        ImageError: anything about it cannot be, or its data file has another size.

    """
    file, field = _place(area)
    process, number = area
    own = tuple(merge(runs if contents.own is None else contents.own))
    expected = data_name(number, shared=process < 0) if own else ""
    if contents.file != expected:
        raise ImageError(file, f"{field}.file", f"is {contents.file!r}, not {expected!r}")
    if not own:
        if contents.blocks or contents.stored:
            raise ImageError(file, f"{field}.blocks", "are there without a data file")
        return None
    stream = Stream(own)
    if len(contents.blocks) != stream.blocks:
        raise ImageError(file, f"{field}.blocks", f"are {len(contents.blocks)}, not {stream.blocks}")
    for index, digest in enumerate(contents.blocks):
        check_digest(digest, f"{field}.blocks[{index}]", file)
    raw = reader.meta.compression == RAW
    if contents.layout not in ((SPARSE, PACKED) if raw else (PACKED,)):
        raise ImageError(file, f"{field}.layout", f"{contents.layout!r} is none for this image")
    if len(contents.stored) != (0 if raw else stream.blocks):
        raise ImageError(file, f"{field}.stored", f"has {len(contents.stored)} lengths")
    for index, length in enumerate(contents.stored):
        if not 0 < length <= most_stored(stream.block_size(index)):
            raise ImageError(file, f"{field}.stored[{index}]", f"{length} is no length of a block")
    name = f"{process_folder(max(process, 0))}/{expected}"
    size = data_size(own, contents.layout, contents.stored)
    entry = reader.entry(name)
    if entry.size != size:
        raise ImageError("meta.json", "files", f"{name} has {entry.size} bytes there, {size} by its runs")
    if hashlib.sha256(bytes.fromhex("".join(contents.blocks))).hexdigest() != entry.sha256:
        raise ImageError("meta.json", "files", f"the checksum of {name} is not that of its blocks")
    data = DataFile(reader.folder, name, size, own, contents.layout, contents.blocks, contents.stored)
    data.open()  # a file that was cut is refused now, and not when a process waits for its pages
    data.close()
    return Part(own, 0, data)


def parts_of(
    reader: ImageReader, ancestors: Sequence[AncestorAreas], area: Area, runs: Sequence[Run], contents: Contents
) -> list[Part]:
    """Return where all of an area's bytes are, in the image and in its ancestors: each byte once.

    Raises:
        ImageError: a byte is missing or there twice, or an ancestor does not hold what is said of it.

    """
    file, field = _place(area)
    own = own_part(reader, area, runs, contents)
    parts = [own] if own else []
    if contents.own is None and contents.inherited:
        raise ImageError(file, f"{field}.own", "is missing beside what is inherited")
    for index, one in enumerate(contents.inherited):
        where = f"{field}.inherited[{index}]"
        if one.ancestor >= len(ancestors):
            raise ImageError(file, f"{where}.ancestor", f"there is no ancestor {one.ancestor}")
        held = ancestors[one.ancestor].part(Area(one.process, one.index))
        if held is None:
            raise ImageError(file, where, f"ancestor {one.ancestor} has no such area")
        for place, (offset, length) in enumerate(one.runs):
            if length <= 0 or held.file.stream.find(Run(offset + one.shift, length)) < 0:
                raise ImageError(file, f"{where}.runs[{place}]", f"ancestor {one.ancestor} does not hold it")
        parts.append(Part(one.runs, one.shift, held.file))
    if contents.own is not None or contents.inherited:
        everything = sorted(run for part in parts for run in part.runs)
        end = 0
        for offset, length in everything:
            if offset < end or length <= 0:
                raise ImageError(file, field, f"what is at {offset} is there twice, or has no length")
            end = offset + length
        if merge(everything) != merge(runs):
            raise ImageError(file, field, "is not of the bytes that the area's runs have")
    return parts


def _place(area: Area) -> tuple[str, str]:
    """Return the file, and the field in it, that say where an area's contents are."""
    process, index = area
    field = f"{'shared' if process < 0 else 'mappings'}[{index}].contents"
    return f"{process_folder(max(process, 0))}/memory_map.json", field
