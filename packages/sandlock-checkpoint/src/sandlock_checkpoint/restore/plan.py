"""What a restore decides before it touches a process: pure functions over the checkpoint."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence

from sandlock_checkpoint.errors import RestoreError
from sandlock_checkpoint.memory import FileIdentity, MappingKind
from sandlock_checkpoint.memory import Mapping as Area
from sandlock_checkpoint.model import Checkpoint, ProcessInfo
from sandlock_checkpoint.open_files import ExternalFile
from sandlock_checkpoint.terms import Unsupported

__all__ = ["LOWEST", "check_host", "differs", "find_gap", "first_prot", "list_skipped", "map_flags", "user_mappings"]

LOWEST = 0x1_0000  # mmap_min_addr as it is set everywhere
_HIGHEST = 0x7FFF_FFFF_0000  # the lower half with 47 bits, the smallest there is of x86_64; others reach as far
_MARGIN = 0x10_0000  # room that a stack may grow into (stack_guard_gap)
_PRIVATE, _SHARED, _FIXED_NOREPLACE = 0x02, 0x01, 0x100000
_WRITE, _EXECUTE = 2, 4  # PROT_*
_ANONYMOUS, _GROWS_DOWN, _NO_RESERVE = 0x20, 0x100, 0x4000


def check_host(checkpoint: Checkpoint, architecture: str, page_size: int, vdso_digest: str) -> None:
    """Raise RestoreError unless this host can run what was captured."""
    if checkpoint.architecture != architecture:
        raise RestoreError("architecture", f"it was captured on {checkpoint.architecture}, this is {architecture}")
    if checkpoint.page_size != page_size:
        raise RestoreError("page size", f"it was captured with {checkpoint.page_size} bytes, this host has {page_size}")
    has_vdso = any(area.kind is MappingKind.VDSO for process in checkpoint.processes for area in process.mappings)
    if has_vdso and checkpoint.vdso_digest != vdso_digest:
        raise RestoreError(
            "vdso",
            f"the kernel's own code is another one here (captured on {checkpoint.kernel}): its functions lie elsewhere",
        )
    for process in checkpoint.processes:
        _check_mappings(process)


def _check_mappings(process: ProcessInfo) -> None:
    end = LOWEST
    for area in user_mappings(process):
        if area.start < end or area.end <= area.start or area.end > 1 << 56:
            raise RestoreError(
                f"mapping {area.start:x}-{area.end:x}", "it is out of order, overlaps another, or lies outside"
            )
        end = area.end


def user_mappings(process: ProcessInfo) -> list[Area]:
    """Return the mappings that a restore makes or moves: all but the vsyscall page."""
    return [area for area in process.mappings if area.kind is not MappingKind.VSYSCALL]


def find_gap(taken: Iterable[tuple[int, int]], size: int) -> int:
    """Return the start of `size` free bytes between the ranges `taken` (start, end), with room on both sides.

    Raises:
        RestoreError: there is none.

    """
    at = LOWEST + _MARGIN
    for start, end in sorted(taken):
        if start - at >= size + _MARGIN:
            break
        at = max(at, end + _MARGIN)
    if at + size + _MARGIN > _HIGHEST:
        raise RestoreError("scratch", f"the address space has no gap of {size} bytes")
    return at


def map_flags(area: Area) -> int:
    """Return the MAP_* flags of a mapping, with MAP_FIXED_NOREPLACE."""
    flags = _FIXED_NOREPLACE | (_SHARED if area.shared else _PRIVATE)
    if area.kind is MappingKind.ANONYMOUS:
        flags |= _ANONYMOUS
    if "gd" in area.flags:
        flags |= _GROWS_DOWN
    if "nr" in area.flags:
        flags |= _NO_RESERVE
    return flags


def first_prot(area: Area) -> int:
    """Return the PROT_* bits a mapping is made with, before it is filled and gets its own.

    A private mapping that was written once and is not writable now (relocated pages) is made writable first: then the
    kernel accounts for it as it did, and does not join it to its neighbour. Code is not: a policy may forbid memory
    that is writable and executable, and its tracer writes it all the same.
    """
    once_written = not area.shared and "ac" in area.flags and not area.prot & (_WRITE | _EXECUTE)
    return area.prot | _WRITE if once_written else area.prot


def list_skipped(
    checkpoint: Checkpoint, replacements: Mapping[int, int], allow_list: Sequence[str]
) -> tuple[Unsupported, ...]:
    """Return what the restored processes would lack and nobody has taken on.

    Arguments:
        checkpoint: what is restored.
        replacements: number of an open file in the checkpoint -> the caller's descriptor that stands in for it.
        allow_list: names and kinds that may be lacking.

    """
    found = []
    for number, process in enumerate(checkpoint.processes):
        prefix = f"{process.pid}/" if number else ""
        for descriptor in process.descriptors:
            target = checkpoint.files[descriptor.file].target
            if isinstance(target, ExternalFile) and descriptor.file not in replacements:
                name = f"{prefix}fd:{descriptor.number}"
                words = target.description.decode(errors="replace")
                found.append(Unsupported(name, target.kind, f"{words}: give a descriptor in its place, or allow it"))
    return tuple(one for one in found if one.name not in allow_list and one.kind not in allow_list)


def differs(known: FileIdentity, device: int, inode: int, size: int, mtime_ns: int, *, contents: bool) -> str:
    """Return in which way a file is not the captured one, "" when it is.

    Arguments:
        known: the captured one. Without an inode it was copied meanwhile, as every file of a branch is: then size and
            time decide, and a directory's name does.
        device: st_dev; inode: st_ino; size: bytes; mtime_ns: st_mtime_ns of the one that has its name now.
        inode: number.
        size: bytes.
        mtime_ns: time of change.
        contents: the contents must be the same too, since a mapping shows them.

    """
    if not known.inode:
        if stat.S_ISDIR(known.mode):
            return ""
        contents = True
    elif (known.device, known.inode) != (device, inode):
        return "another file has its name now"
    if contents and (known.size, known.mtime_ns) != (size, mtime_ns):
        return "it was changed after the capture"
    return ""
