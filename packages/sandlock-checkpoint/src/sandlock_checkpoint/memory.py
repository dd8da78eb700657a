"""Memory in a checkpoint: mappings, shared memory, which pages have contents, and where those are read from.

Contents are never in these objects. They stand in *areas*: one for each mapping of each process, and one for each
piece of shared memory. An area's runs say which of its pages have contents of their own; a `MemorySource` reads
them: from the stopped process while it is captured, from an image's files after it was loaded.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = [
    "Area",
    "FileIdentity",
    "Location",
    "MappableSource",
    "Mapping",
    "MappingKind",
    "MemorySource",
    "Run",
    "SharedMemory",
    "Tracking",
]


class Area(NamedTuple):
    """Names what has contents: mapping `number` of process `process`; or, with process -1, shared memory `number`.

    Both are positions in `Checkpoint.processes`, `ProcessInfo.mappings` and `Checkpoint.shared`.
    """

    process: int
    number: int


class Run(NamedTuple):
    """`length` bytes that start `offset` bytes behind the beginning of their area; both are multiples of a page."""

    offset: int
    length: int


class Location(NamedTuple):
    """Where in a file a run's bytes stand, raw and page-aligned; the fd stays the source's."""

    fd: int
    offset: int


class MemorySource(Protocol):
    """Reads the contents of areas. Used by one thread; which one is up to the source (a tracer has only one)."""

    def read(self, area: Area, runs: Sequence[Run], into: memoryview) -> None:
        """Fill `into` with the bytes of `runs`, one after the other; its length is the sum of theirs.

        Arguments:
            area: what to read of.
            runs: parts of the area's own runs, in ascending order; they need not be whole ones, so that whoever has
                64 MiB of memory may read 64 MiB at a time.
            into: writable, of bytes, contiguous.

        Raises:
            CaptureError: the process is gone, or has changed (a live source).
            ImageError: the image is short, or its checksum does not fit (a loaded source). Never fills with zeros.

        """

    def locate(self, area: Area, run: Run) -> Location | None:
        """Return where the whole run may be mapped from instead, or None: live, compressed, or not contiguous."""

    def close(self) -> None:
        """Give everything back: a live source lets the process go (see `Leave`), a loaded one closes its files.

        Once is enough, twice does no harm.
        """


@runtime_checkable
class MappableSource(MemorySource, Protocol):
    """A source that can tell beforehand what may be mapped; from one that cannot, everything is copied."""

    def mappable(self, area: Area) -> Sequence[Run]:
        """Return the parts of the area's runs that `locate` has an answer for, each in one piece, ascending."""


class Tracking(Protocol):
    """Knows what live processes have written since earlier captures."""

    def changed_since(self, digest: str, area: Area, runs: Sequence[Run]) -> Sequence[Run] | None:
        """Return the parts of an area's runs that may differ from the image `digest`, None when that is not known."""

    def saved(self, digest: str) -> None:
        """Hear that the checkpoint is the image `digest` now, which later ones may have as their parent."""


class MappingKind(enum.Enum):
    """What stands behind a mapping."""

    ANONYMOUS = "anonymous"  # private memory without a file: [heap], [stack], [anon:...] too
    FILE = "file"  # private or shared, of a file with a name
    SHARED = "shared"  # MAP_SHARED, or private, over `SharedMemory`: anonymous, memfd, a deleted file
    VDSO = "vdso"  # the kernel's code
    VVAR = "vvar"  # the kernel's data that the vDSO reads: [vvar], [vvar_vclock] (6.13), never read or written
    VSYSCALL = "vsyscall"  # the fixed page of x86_64; belongs to every process, nothing is restored


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which file it was, so that a restore can tell that another one has its name now.

    Attributes:
        path: absolute, as the process's own root shows it.
        device: st_dev. It tells little after a reboot and is not compared where the inode's file system is another.
        inode: st_ino; 0 where it means nothing, since the file is a copy by now: then size and time tell.
        size: bytes.
        mtime_ns: last change of contents.
        mode: st_mode, type and permissions.
        digest: sha256 of the contents in hex, where the capture was asked to make it, else "".

    """

    path: bytes
    device: int
    inode: int
    size: int
    mtime_ns: int
    mode: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """Memory that several mappings, descriptors or processes of the checkpoint may have in common.

    Attributes:
        size: bytes of the object.
        runs: which parts have contents, offsets in the object; all else reads as zeros.
        kind: "anonymous" (MAP_SHARED | MAP_ANONYMOUS), "memfd", or "deleted" (a file that has lost its name).
        name: of a memfd; the former path of a deleted file; else b"".
        seals: F_SEAL_* of a memfd (linux/fcntl.h).
        memfd_flags: MFD_* it is to be made with again (MFD_HUGETLB and its size, MFD_NOEXEC_SEAL); 0 as a rule.

    """

    size: int
    runs: tuple[Run, ...]
    kind: str
    name: bytes = b""
    seals: int = 0
    memfd_flags: int = 0


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping of a process.

    Attributes:
        start: first address.
        end: first address behind it.
        kind: what stands behind it.
        prot: PROT_* bits: 1 read, 2 write, 4 execute.
        shared: MAP_SHARED; else private, copied on write.
        offset: of the mapping in its file or shared memory, in bytes.
        name: what maps says: a path, [heap], [stack], [vdso], [anon:...], or b"".
        file: FILE only.
        memory: SHARED only: position in `Checkpoint.shared`, else -1.
        flags: the two-letter VmFlags of smaps in order ("gd" grows down, "dd" not dumped, "dc" not in forks,
            "wf" wiped in forks, "lo" locked, "hg"/"nh" huge pages, "nr" not accounted, ...).
        protection_key: of pkey_mprotect(2), 0 as a rule.
        runs: the pages with contents of their own, offsets from `start`. For private mappings: the pages that are not
            the file's any more, or were ever written; a page of an anonymous mapping outside them is zero. Shared
            mappings have none: a file's are in the file, shared memory's in `SharedMemory.runs`.
        guards: guard regions (MADV_GUARD_INSTALL, 6.13), offsets from `start`.

    """

    start: int
    end: int
    kind: MappingKind
    prot: int
    shared: bool
    offset: int
    name: bytes
    file: FileIdentity | None = None
    memory: int = -1
    flags: tuple[str, ...] = ()
    protection_key: int = 0
    runs: tuple[Run, ...] = ()
    guards: tuple[Run, ...] = ()

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start
