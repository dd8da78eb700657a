"""Pages that a new image need not hold, because an older one does: what an incremental save leaves out.

Nobody's word is taken for it that a page is unchanged but the caller's who watched it (`changed`); all others are
compared byte by byte with what the parent holds for the same address of the same process.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.format import MAX_ANCESTORS, Ancestor, Inherited
from sandlock_checkpoint.image.layout import intersect, merge, subtract, total
from sandlock_checkpoint.image.source import ImageSource, covered
from sandlock_checkpoint.memory import Area, Run
from sandlock_checkpoint.model import Checkpoint

__all__ = ["Changed", "Origin", "Parent", "ParentPages", "ancestor_name"]

Changed = Callable[[Area, Sequence[Run]], Sequence[Run] | None]
"""Asked for the parts of an area's runs that may differ from the parent; None when that is not known."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Which image holds the bytes of a part: position in `Parent.ancestors`, and the area there."""

    ancestor: int
    area: Area


@dataclass(frozen=True, slots=True)
class Parent:
    """A loaded image that pages may be left to.

    Attributes:
        checkpoint: it; its source is an `ImageSource`.
        source: that.
        ancestors: the images that hold its pages: itself first, then those it needs.
        origins: for each part of `source.parts`, in the same order, where its bytes are.
        unread_bytes: as in `format.Meta`.

    """

    checkpoint: Checkpoint
    source: ImageSource
    ancestors: tuple[Ancestor, ...]
    origins: dict[Area, tuple[Origin, ...]]
    unread_bytes: int


@dataclass(slots=True)
class _Match:
    """An area of ours and the one of the parent: ours starts `shift` bytes further on."""

    area: Area
    shift: int
    runs: list[Run]  # that the parent has, in our offsets
    same: list[Run] = field(default_factory=list)


class ParentPages:
    """Which pages of a checkpoint its parent image has already."""

    def __init__(self, parent: Parent, checkpoint: Checkpoint, changed: Changed | None = None) -> None:
        """Raises ImageError when the parent cannot be one."""
        if parent.checkpoint.page_size != checkpoint.page_size:
            raise ImageError(parent.ancestors[0].name, "page_size", "is another than the checkpoint's")
        if len(parent.ancestors) > MAX_ANCESTORS:
            raise ImageError(
                parent.ancestors[0].name, "ancestors",
                f"a chain of more than {MAX_ANCESTORS} images is not made: save without a parent",
            )  # fmt: skip
        self._parent = parent
        self._page = checkpoint.page_size
        self._changed = changed
        self._matches = dict(_matches(parent, checkpoint))
        self._scratch = bytearray()
        self.unread = 0  # bytes that were left to the parent without a comparison

    def plan(self, area: Area, runs: Sequence[Run]) -> Iterator[tuple[Sequence[Run], bool]]:
        """Yield what of `runs` must be read, in ascending order, with whether it may be unchanged."""
        match = self._matches.get(area)
        if match is None:
            yield runs, False
            return
        known = intersect(runs, match.runs)
        # The places of shared memory may be other ones than in the parent: it is compared in any case.
        changed = self._changed(area, runs) if self._changed and area.process >= 0 else None
        if changed is not None:
            match.same = subtract(known, changed)
            self.unread += total(match.same)
            yield subtract(runs, match.same), False
            return
        mixed = [(run, True) for run in known] + [(run, False) for run in subtract(runs, known)]
        for compare, batch in itertools.groupby(sorted(mixed), key=lambda one: one[1]):
            yield [run for run, _ in batch], compare

    def changed(self, area: Area, pieces: Sequence[Run], slot: bytearray, fill: int) -> list[Run]:
        """Compare `pieces`, which are in `slot` from `fill` on, with the parent's.

        Returns:
            Those that differ, page by page; their bytes are moved together in `slot`, from `fill` on.

        """
        match = self._matches[area]
        theirs = [Run(run.offset + match.shift, run.length) for run in pieces]
        count = sum(run.length for run in pieces)
        if len(self._scratch) < count:
            self._scratch = bytearray(count)
        known = memoryview(self._scratch)[:count]
        self._parent.source.read_unchecked(match.area, theirs, known)
        if slot.startswith(known, fill):
            match.same += pieces
            return []
        differ = []
        position, end = 0, fill
        for offset, length in pieces:
            for page in range(offset, offset + length, self._page):
                if slot.startswith(known[position : position + self._page], fill + position):
                    match.same.append(Run(page, self._page))
                else:
                    differ.append(Run(page, self._page))
                    slot[end : end + self._page] = slot[fill + position : fill + position + self._page]
                    end += self._page
                position += self._page
        return merge(differ)

    def taken(self, area: Area) -> tuple[Inherited, ...]:
        """Return where the pages of `area` are that are not written again."""
        match = self._matches.get(area)
        if match is None or not match.same:
            return ()
        theirs = [Run(run.offset + match.shift, run.length) for run in merge(match.same)]
        found = []
        parts = zip(self._parent.source.parts[match.area], self._parent.origins[match.area], strict=True)
        for part, origin in parts:
            inside = intersect(theirs, part.runs)
            if inside:
                ours = tuple(Run(run.offset - match.shift, run.length) for run in inside)
                shift = match.shift + part.shift
                found.append(Inherited(origin.ancestor, *origin.area, shift, ours))
        return tuple(found)


def _matches(parent: Parent, checkpoint: Checkpoint) -> Iterator[tuple[Area, _Match]]:
    """Pair areas: mappings by process id and address, shared memory by its place and kind.

    A wrong pair costs time and nothing else: pages are compared, or known to be unchanged at their address.
    """
    old = parent.checkpoint
    by_pid = {process.pid: index for index, process in enumerate(old.processes)}
    for number, process in enumerate(checkpoint.processes):
        before = by_pid.get(process.pid)
        if before is None:
            continue
        mappings = old.processes[before].mappings
        place = 0
        for index, mapping in enumerate(process.mappings):
            while place < len(mappings) and mappings[place].end <= mapping.start:
                place += 1
            if place == len(mappings):
                break
            area, shift = Area(before, place), mapping.start - mappings[place].start
            if mapping.runs and area in parent.source.parts:
                yield Area(number, index), _Match(area, shift, _shifted(parent.source, area, shift))
    for index, memory in enumerate(checkpoint.shared):
        area = Area(-1, index)
        if memory.runs and area in parent.source.parts and old.shared[index].kind == memory.kind:
            yield area, _Match(area, 0, _shifted(parent.source, area, 0))


def _shifted(source: ImageSource, area: Area, shift: int) -> list[Run]:
    """Return the runs of the parent's area in offsets of ours, without what is before ours begins."""
    found = []
    for offset, length in covered(source.parts[area]):
        cut = max(0, shift - offset)
        if cut < length:
            found.append(Run(offset + cut - shift, length - cut))
    return found


def ancestor_name(path: str) -> str:
    """Return the name by which an image beside `path` is known."""
    return os.path.basename(os.path.normpath(path))
