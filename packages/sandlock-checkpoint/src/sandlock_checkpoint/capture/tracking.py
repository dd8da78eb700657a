"""Know which pages were written between two captures: the kernel notes it, and nobody is stopped for it.

A userfaultfd that notes writes (`sandlock_sys.userfaultfd`) is made in the process by an injected call, taken over by
pidfd_getfd(2) and closed there. At each capture, while everybody stands still, the tracker asks which pages have been
written since the one before (`look`), and write-protects them again (`arm`).

Why nothing that changed is missed:

* Only memory of the process's own is taken on: private, without a file. Files, shared memory and what a lazy restore
  has mapped are compared with the parent, since others may change them.
* A page counts as unwritten when it is there, in memory registered with our descriptor, and still protected. A new
  mapping is not registered, and one that was moved (mremap) no longer; a page that was given back (MADV_DONTNEED,
  munmap) and touched again is a new one, unprotected; a child of fork(2), a process that ran another program, and
  whoever has the number of one that ended have memory that nobody has registered.
* Writes by the kernel for the process (read(2)), and by others into it (process_vm_writev(2), /proc/PID/mem), are page
  faults as well.
* What was written between a capture and the next stays known until an image of the next is saved: a save that fails
  loses nothing.

Who can blind it is the process itself: it may have the kernel protect its pages again (PAGEMAP_SCAN on its own
pagemap). It harms its own image, and nobody else's.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from errno import EBUSY, EINVAL, ENOSYS, EPERM
from typing import Self

from sandlock_checkpoint.capture.tracking_filtered import FilteredError
from sandlock_checkpoint.image.layout import intersect, merge, subtract, within
from sandlock_checkpoint.inject import Injector
from sandlock_checkpoint.memory import Area, Mapping, MappingKind, Run
from sandlock_sys import pagemap, pidfd, procmem, userfaultfd
from sandlock_sys.constants.pagemap import PageIs
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import open_pagemap

__all__ = ["Moment", "Tracker"]

_THERE = PageIs.PRESENT | PageIs.SWAPPED
_KEPT = 32  # images whose successors may name them as parent; twice the longest chain
_AUXILIARY = struct.Struct("=QQ")
_AT_RANDOM = 25  # linux/auxvec.h, 2.6.29
_RANDOM_BYTES = 16


@dataclass(slots=True)
class _Watch:
    """The memory of one process.

    Attributes:
        fd: the userfaultfd over it, ours alone.
        memory: its /proc/PID/mem, which means this memory even when the process runs another program.
        armed: address ranges that are watched since the capture before.
        owned: likewise, as found by `Tracker.owns` at this one.

    """

    fd: int
    memory: int
    armed: list[Run] = field(default_factory=list)
    owned: set[Run] = field(default_factory=set)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.memory)


class Tracker:
    """Watches the processes of successive captures, so that the next image holds what was written, and reads no more.

        with Tracker() as tracker:
            with capture(pid, tracker=tracker) as checkpoint:
                checkpoint.save("monday")
            ...
            with capture(pid, tracker=tracker) as checkpoint:
                checkpoint.save("tuesday", parent="monday")

    Where a process cannot be watched (`untracked` says why) its pages are compared with the parent's, which takes
    longer and finds the same. While it is watched, the first write to a page after each capture costs the process a
    page fault, and nobody else may capture it. Closing the tracker, or the death of this process, ends that; a child
    that was forked meanwhile and runs no other program has a copy of it.

    Attributes:
        untracked: of the latest capture, the processes that are not watched from then on, and why.
        number: how many captures it has seen.

    """

    def __init__(self) -> None:
        self._watches: dict[int, _Watch] = {}
        self._looks: list[dict[int, list[Run]]] = []  # of each of the latest captures: what was not written before it
        self._images: dict[str, int] = {}  # by digest: of which capture
        self.number = 0
        self.untracked: dict[int, str] = {}

    def close(self) -> None:
        """Watch nobody any more. Twice does no harm."""
        while self._watches:
            self._watches.popitem()[1].close()
        self._images.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def look(self, pids: Sequence[int]) -> None:
        """See what the processes of a capture, all stopped, have written since the one before."""
        self.number += 1
        self.untracked = {}
        for pid in self._watches.keys() - set(pids):
            self._watches.pop(pid).close()
        self._looks.append({pid: self._look(pid) for pid in pids})
        if len(self._looks) > _KEPT:
            del self._looks[0]
        self._images = {digest: number for digest, number in self._images.items() if number >= self.number - _KEPT}

    def _look(self, pid: int) -> list[Run]:
        watch = self._watches.get(pid)
        if watch is None:
            return []
        if not _same_memory(pid, watch.memory):
            self._watches.pop(pid).close()
            return []
        watch.owned.clear()
        fd = open_pagemap(pid)
        try:
            regions = pagemap.scan(
                fd, 0, _highest(watch), all_of=PageIs.WPALLOWED, any_of=_THERE, none_of=PageIs.WRITTEN, report=0
            )
        finally:
            os.close(fd)
        return merge(Run(one.start, one.end - one.start) for one in regions)

    def owns(self, pid: int, start: int, end: int) -> bool:
        """Whether memory whose writes go to some userfaultfd is what this tracker watches."""
        watch = self._watches.get(pid)
        if watch is None:
            return False
        try:
            userfaultfd.register(watch.fd, start, end)  # once more, which another's would refuse
        except SyscallError:
            return False
        watch.owned.add(Run(start, end - start))
        return True

    def attach(self, pid: int, injector: Injector, way: AbstractContextManager[None]) -> None:
        """Begin to watch a process.

        Arguments:
            pid: the process.
            injector: of one of its threads, entered.
            way: past whatever judges its calls.

        """
        if pid in self._watches:
            return
        try:
            with way:
                self._watches[pid] = _watch(pid, injector)
        except FilteredError as error:
            self.untracked[pid] = str(error)
        except SyscallError as error:
            self.untracked[pid] = _reason(error)

    def arm(self, pid: int, mappings: Sequence[Mapping]) -> None:
        """Note the writes from now on; nothing is injected any more."""
        watch = self._watches.get(pid)
        if watch is None:
            return
        armed = []
        fd = open_pagemap(pid)
        try:
            for mapping in mappings:
                place = Run(mapping.start, mapping.size)
                if _its_own(mapping) and (place in watch.owned or _register(watch.fd, mapping)):
                    pagemap.scan(
                        fd, mapping.start, mapping.end, all_of=PageIs.WRITTEN, any_of=_THERE, report=0, protect=True
                    )
                    armed.append(place)
        finally:
            os.close(fd)
        watch.armed = armed

    def armed(self) -> dict[int, list[Run]]:
        """Return what is watched of each process since the capture before."""
        return {pid: watch.armed for pid, watch in self._watches.items()}

    def unwritten_since(self, digest: str, pid: int, place: Run) -> list[Run] | None:
        """Return the addresses in `place` whose pages are what the image `digest` has; None when that is not known."""
        number = self._images.get(digest)
        if number is None:
            return None
        found = [place]
        for look in self._looks[number - self.number :] if number < self.number else ():
            if pid not in look:
                return None
            found = intersect(found, within(look[pid], place))
        return found

    def note_image(self, digest: str) -> None:
        """Hear that the latest capture is the image `digest` now."""
        self._images[digest] = self.number


@dataclass(frozen=True, slots=True)
class Moment:
    """What a tracker knew when a checkpoint was captured; good until the next capture.

    Attributes:
        tracker: whose it is.
        number: of the capture.
        pids: of each process of the checkpoint, the pid as the caller sees it.
        mappings: of each.
        armed: by pid, what was watched until then.

    """

    tracker: Tracker
    number: int
    pids: tuple[int, ...]
    mappings: tuple[tuple[Mapping, ...], ...]
    armed: dict[int, list[Run]]

    def changed_since(self, digest: str, area: Area, runs: Sequence[Run]) -> Sequence[Run] | None:
        """Return the parts of an area's runs that may differ from the image `digest`, None when that is not known."""
        if area.process < 0 or self.number != self.tracker.number:
            return None
        pid, mapping = self.pids[area.process], self.mappings[area.process][area.number]
        place = Run(mapping.start, mapping.size)
        unwritten = self.tracker.unwritten_since(digest, pid, place) if within(self.armed.get(pid, []), place) else None
        if unwritten is None:
            return None
        return subtract(runs, [Run(run.offset - mapping.start, run.length) for run in unwritten])

    def saved(self, digest: str) -> None:
        """Hear that the checkpoint is the image `digest` now, which later ones may have as their parent."""
        if self.number == self.tracker.number:
            self.tracker.note_image(digest)


def _its_own(mapping: Mapping) -> bool:
    """Whether nobody but the process changes it, and no file is behind it."""
    return (
        mapping.kind is MappingKind.ANONYMOUS
        and not mapping.shared
        and (not mapping.name or mapping.name.startswith(b"["))
    )


def _register(fd: int, mapping: Mapping) -> bool:
    try:
        userfaultfd.register(fd, mapping.start, mapping.end)
        # Before 6.13 pages kept their mark when they were moved to other memory: it would pass for ours.
        userfaultfd.unprotect(fd, mapping.start, mapping.end)
    except SyscallError as error:
        # Droppable memory (6.11), what another process has in common and is watched there, and what else cannot be
        # watched: it is compared.
        if error.errno in {EBUSY, EINVAL, EPERM}:
            return False
        raise
    return True


def _watch(pid: int, injector: Injector) -> _Watch:
    remote = injector.call("userfaultfd", os.O_CLOEXEC | userfaultfd.USER_MODE_ONLY)
    try:
        process = pidfd.open_pidfd(pid)
        try:
            fd = pidfd.getfd(process, remote)
        finally:
            os.close(process)
    finally:
        injector.attempt("close", remote)
    try:
        userfaultfd.note_writes(fd)
        return _Watch(fd, procmem.open_memory(pid))
    except BaseException:
        os.close(fd)
        raise


def _reason(error: SyscallError) -> str:
    if error.errno in {EINVAL, ENOSYS}:
        return "the kernel does not note writes without stopping the writer (6.7, CONFIG_USERFAULTFD)"
    return f"it could not be watched: {error}"


def _same_memory(pid: int, memory: int) -> bool:
    """Whether the process still has the memory behind an older /proc/PID/mem, and has not run another program.

    The kernel gives each program random bytes of its own when it starts (AT_RANDOM), in its stack.
    """
    with suppress(OSError):
        with open(f"/proc/{pid}/auxv", "rb") as file:
            vector = dict(_AUXILIARY.iter_unpack(file.read()))
        address = vector.get(_AT_RANDOM, 0)
        if address:
            return os.pread(memory, _RANDOM_BYTES, address) == procmem.read(pid, address, _RANDOM_BYTES)
    return False


def _highest(watch: _Watch) -> int:
    """Return an address behind all that is watched; a stack or heap that has grown begins where it did, or below."""
    return max((run.offset + run.length for run in watch.armed), default=0)
