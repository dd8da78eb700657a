"""The image format: its version, names, limits, and what each JSON file holds. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field

from sandlock_checkpoint.memory import Mapping, Run, SharedMemory
from sandlock_checkpoint.open_files import Descriptor, OpenFile, Pipe, SocketPair
from sandlock_checkpoint.terms import Leave, Scope, Unsupported

__all__ = [
    "BLOCK",
    "FORMAT",
    "LIMITS",
    "MAX_ANCESTORS",
    "MAX_COW_ENTRIES",
    "MAX_PROCESSES",
    "MAX_REGISTERS",
    "MAX_THREADS",
    "PACKED",
    "RAW",
    "SPARSE",
    "SPARSE_LIMIT",
    "VERSION",
    "ZSTD",
    "Ancestor",
    "Contents",
    "CowSnapshot",
    "Descriptors",
    "FileEntry",
    "Inherited",
    "MappedArea",
    "MemoryMap",
    "Meta",
    "Policy",
    "RegisterFile",
    "SharedArea",
    "data_name",
    "process_folder",
]

FORMAT = "sandlock-checkpoint"  # meta.json, "format"
VERSION = 1  # meta.json, "version"; raised when an older reader would misunderstand what is written

# Page contents are checked, compressed and read in blocks of so many bytes of an area's own runs, one after another.
BLOCK = 1 << 20

RAW = "none"
ZSTD = "zstd"

SPARSE = "sparse"  # a byte stands in its file where it stands in its area; between the runs there are holes
PACKED = "packed"  # the runs, or their compressed blocks, stand one behind the other
# The largest file offset that every usual file system has. An area that reaches further is packed.
SPARSE_LIMIT = 1 << 40

MAX_ANCESTORS = 16
MAX_PROCESSES = 4096
MAX_THREADS = 1 << 16  # of one process
MAX_REGISTERS = 1 << 20  # bytes of one register set; an SVE set at its longest has 0.5 MiB
MAX_COW_ENTRIES = 1 << 20

# Most bytes of each file that is read whole, before it is read.
LIMITS = {
    "meta.json": 32 << 20,
    "policy.json": 4 << 20,
    "app_state.bin": 64 << 20,
    "info.json": 16 << 20,
    "fds.json": 64 << 20,
    "memory_map.json": 64 << 20,
    "thread.json": 16 << 20,
}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the image: its path in it, its bytes, and sha256 of them (for page data: of its block digests)."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Ancestor:
    """An image in the same directory that holds pages of this one: its name there, and the digest of its meta.json."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class CowSnapshot:
    """The directory cow/: how many entries it has below it, and sha256 over all of them."""

    entries: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Meta:
    """meta.json.

    Attributes:
        format: FORMAT.
        version: VERSION.
        name: and the following, down to `unsupported`: of the checkpoint.
        threads: for each process, the number of its threads.
        compression: RAW or ZSTD, of all page data of this image.
        ancestors: the images this one needs.
        unread_bytes: of what they hold for it, how much was not compared: who watched the process said that it had not
            been written.
        cow: None without one.
        files: all files but meta.json and what is in cow/, in order of their names.
        sha256: of this file's canonical form without this field; names the image.

    """

    format: str
    version: int
    name: str
    architecture: str
    kernel: str
    page_size: int
    captured_ns: int
    monotonic_ns: int
    scope: Scope
    leave: Leave
    vdso_digest: str
    unsupported: tuple[Unsupported, ...]
    threads: tuple[int, ...]
    compression: str
    ancestors: tuple[Ancestor, ...]
    unread_bytes: int
    cow: CowSnapshot | None
    files: tuple[FileEntry, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class Policy:
    """policy.json: the policy's text, for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class Descriptors:
    """fds.json. The tables are those of the whole checkpoint and stand with the first process; others have none."""

    descriptors: tuple[Descriptor, ...]
    files: tuple[OpenFile, ...]
    pipes: tuple[Pipe, ...]
    sockets: tuple[SocketPair, ...]


@dataclass(frozen=True, slots=True)
class RegisterFile:
    """A register set in threads/N.json; its bytes are in threads/N.NAME.bin."""

    name: str
    note: int


@dataclass(frozen=True, slots=True)
class Inherited:
    """Runs whose bytes are in another image.

    Attributes:
        ancestor: position in `Meta.ancestors`.
        process: the area there (`memory.Area`).
        index: likewise.
        shift: what must be added to an offset in our area to get the one in theirs.
        runs: in our area.

    """

    ancestor: int
    process: int
    index: int
    shift: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """Where the bytes of an area's runs are.

    Attributes:
        file: the data file, "" when this image has no page of the area.
        layout: SPARSE or PACKED.
        own: the runs that are in the data file, None for all of the area's.
        blocks: sha256 of each block of them, uncompressed.
        stored: length of each block in the file; only when compressed.
        inherited: where all other runs are.

    """

    file: str
    layout: str
    own: tuple[Run, ...] | None
    blocks: tuple[str, ...]
    stored: tuple[int, ...] = ()
    inherited: tuple[Inherited, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class MappedArea:
    """One mapping; `contents` is None when it has no runs."""

    mapping: Mapping
    contents: Contents | None


@dataclass(frozen=True, slots=True)
class SharedArea:
    """One piece of shared memory, likewise."""

    memory: SharedMemory
    contents: Contents | None


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """memory_map.json; `shared` stands with the first process."""

    mappings: tuple[MappedArea, ...]
    shared: tuple[SharedArea, ...]


def process_folder(index: int) -> str:
    """Return the name of the directory of process `index`: the first one's has no number."""
    return f"process-{index}" if index else "process"


def data_name(index: int, *, shared: bool) -> str:
    """Return the name of a data file in its process's directory; shared memory is in the first process's."""
    return f"memory/shared-{index}.bin" if shared else f"memory/{index}.bin"
