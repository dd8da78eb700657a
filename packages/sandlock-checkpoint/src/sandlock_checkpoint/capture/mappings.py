"""Write down the mappings of a stopped process: what stands behind each, and which of its pages are its own."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace

from sandlock_checkpoint.capture.pages import PageFinder
from sandlock_checkpoint.capture.shared import SharedObjects
from sandlock_checkpoint.capture.tracking import Tracker
from sandlock_checkpoint.memory import FileIdentity, Mapping, MappingKind, Run
from sandlock_checkpoint.terms import Unsupported
from sandlock_sys import procmem
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import Mapping as Line
from sandlock_sys.proc import MappingUse, read_smaps

__all__ = ["UnreachableError", "describe_mappings", "identify", "refuse_mapping"]

_VVAR = {b"[vvar]", b"[vvar_vclock]"}
# As image.format names them; a capture knows nothing else of images.
_IMAGE_PAGES = re.compile(rb"(.*)/process(?:-\d+)?/memory/\d+\.bin", re.DOTALL)
# VmFlags of what cannot be put back, linux/fs/proc/task_mmu.c
_REFUSED = {
    "io": ("device", "it is a device's memory"),
    "pf": ("device", "it is a device's memory"),
    "mm": ("device", "it mixes a device's memory with pages"),
    "ht": ("huge_pages", "it is hugetlb memory; transparent huge pages are captured"),
    "um": ("userfaultfd", "page faults in it go to a userfaultfd"),
    "uw": ("userfaultfd", "writes to it go to a userfaultfd, its own or another tracker's"),
    "ui": ("userfaultfd", "page faults in it go to a userfaultfd"),
    "ss": ("shadow_stack", "it is a shadow stack"),
}


_WATCHED = frozenset({"um", "uw", "ui"})


class UnreachableError(SyscallError):
    """A file that is open or mapped has a name under which this user cannot reach it, so no restore could either."""


@dataclass(frozen=True, slots=True)
class _Kind:
    kind: MappingKind
    file: FileIdentity | None = None
    memory: int = -1


def describe_mappings(
    pid: int, prefix: str, shared: SharedObjects, tracker: Tracker | None = None
) -> tuple[tuple[Mapping, ...], tuple[Unsupported, ...]]:
    """Return the mappings of a process, and what of them cannot be captured (and is left out).

    Arguments:
        pid: the process, stopped.
        prefix: goes before the names of unsupported things.
        shared: collects the shared memory of all processes.
        tracker: may watch some of them.

    """
    found: list[Mapping] = []
    refused: list[Unsupported] = []
    finder = PageFinder(pid)
    try:
        for seen in read_smaps(pid):
            use = _without_tracker(pid, seen, tracker) if tracker is not None else seen
            problem = refuse_mapping(use, prefix)
            if problem is not None:
                refused.append(problem)
                continue
            try:
                found.append(_describe(pid, use, finder, shared))
            except UnreachableError as error:
                name = f"{prefix}mapping:{use.mapping.start:x}"
                refused.append(Unsupported(name, "unreachable", f"{_words(use.mapping)}: {error}"))
    finally:
        finder.close()
    return tuple(found), tuple(refused)


def _without_tracker(pid: int, use: MappingUse, tracker: Tracker) -> MappingUse:
    """Return what the mapping is when its tracker is not thought of."""
    if _WATCHED & use.flags == {"uw"} and tracker.owns(pid, use.mapping.start, use.mapping.end):
        return replace(use, flags=use.flags - {"uw"})
    return use


def refuse_mapping(use: MappingUse, prefix: str) -> Unsupported | None:
    """Return why a mapping cannot be captured, or None."""
    line = use.mapping
    name = f"{prefix}mapping:{line.start:x}"
    if line.name in _VVAR or line.name in {b"[vdso]", b"[vsyscall]"}:
        return None
    for flag, (kind, reason) in _REFUSED.items():
        if flag in use.flags:
            return Unsupported(name, kind, f"{_words(line)}: {reason}")
    if line.name.startswith(b"anon_inode:"):
        return Unsupported(name, "device", f"{_words(line)}: the kernel's own memory")
    if line.name in {b"/[aio]", b"/[aio] (deleted)"}:
        return Unsupported(name, "aio", f"{_words(line)}: a context of io_setup(2)")
    if line.deleted and line.name.startswith(b"/SYSV"):
        return Unsupported(name, "sysv_shm", f"{_words(line)}: System V shared memory has a life of its own")
    return None


def _words(line: Line) -> str:
    return f"{line.start:x}-{line.end:x} {os.fsdecode(line.name)}".strip()


def _describe(pid: int, use: MappingUse, finder: PageFinder, shared: SharedObjects) -> Mapping:
    line = use.mapping
    kind = _kind(pid, use, shared)
    runs: tuple[Run, ...] = ()
    guards: tuple[Run, ...] = ()
    if kind.kind in {MappingKind.ANONYMOUS, MappingKind.FILE, MappingKind.SHARED}:
        if not line.shared and kind.kind is MappingKind.ANONYMOUS and line.inode:
            runs = _readable(pid, line)
        elif not line.shared:
            runs = finder.own(line.start, line.end, of_file=kind.kind is not MappingKind.ANONYMOUS)
        guards = finder.guards(line.start, line.end)
    return Mapping(
        start=line.start,
        end=line.end,
        kind=kind.kind,
        prot=line.readable * 1 + line.writable * 2 + line.executable * 4,
        shared=line.shared,
        offset=line.offset,
        name=line.name,
        file=kind.file,
        memory=kind.memory,
        flags=tuple(sorted(use.flags)),
        protection_key=use.values.get("ProtectionKey", 0),
        runs=runs,
        guards=guards,
    )


def _kind(pid: int, use: MappingUse, shared: SharedObjects) -> _Kind:
    line = use.mapping
    if line.name == b"[vdso]":
        return _Kind(MappingKind.VDSO)
    if line.name in _VVAR:
        return _Kind(MappingKind.VVAR)
    if line.name == b"[vsyscall]":
        return _Kind(MappingKind.VSYSCALL)
    if not line.inode:
        return _Kind(MappingKind.ANONYMOUS)
    if not line.deleted:
        if not line.shared and _of_image(pid, line.name):
            return _Kind(MappingKind.ANONYMOUS)
        return _Kind(MappingKind.FILE, file=identify(pid, line.name))
    if line.shared or line.name.startswith(b"/memfd:"):
        return _Kind(MappingKind.SHARED, memory=shared.of_mapping(pid, line, swapped=use.values.get("Swap", 0) > 0))
    # A private mapping of a file that has lost its name: nobody can change what it shows, so it is memory of its own.
    return _Kind(MappingKind.ANONYMOUS)


def _of_image(pid: int, path: bytes) -> bool:
    """Tell whether a file holds pages of an image: then what is mapped is memory that was restored lazily.

    It is captured whole, so that the new image does not need the old one. A stranger's file of the same name and place
    is captured whole as well, which does no harm.
    """
    match = _IMAGE_PAGES.fullmatch(path)
    return match is not None and os.path.exists(os.fsencode(f"/proc/{pid}/root") + match[1] + b"/meta.json")


def identify(pid: int, path: bytes) -> FileIdentity:
    """Return which file has this name in the root of the process.

    Raises:
        UnreachableError: there is none, or it may not be looked at.

    """
    try:
        # Through the process's own root: another mount namespace may have another file of that name.
        facts = os.stat(os.fsencode(f"/proc/{pid}/root") + path)
    except OSError as error:
        raise UnreachableError("stat", error.errno or 5, os.fsdecode(path)) from error
    size = facts.st_size if stat.S_ISREG(facts.st_mode) else 0
    return FileIdentity(path, facts.st_dev, facts.st_ino, size, facts.st_mtime_ns, facts.st_mode)


def _readable(pid: int, line: Line) -> tuple[Run, ...]:
    """Return the part of a mapping that can be read: behind the end of its file it cannot."""
    page = os.sysconf("SC_PAGE_SIZE")
    memory = procmem.open_memory(pid)
    low, high = 0, line.size // page
    try:
        while low < high:  # the first page that cannot be read, by halves
            middle = (low + high) // 2
            try:
                procmem.peek(memory, line.start + middle * page, 1)
            except SyscallError:
                high = middle
            else:
                low = middle + 1
    finally:
        os.close(memory)
    return (Run(0, low * page),) if low else ()
