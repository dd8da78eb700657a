"""Empty the address space of a fresh process, and put the vDSO where the captured process had it."""

from __future__ import annotations

from sandlock_checkpoint.errors import RestoreError
from sandlock_checkpoint.memory import Mapping, MappingKind
from sandlock_checkpoint.model import Layout, ProcessInfo
from sandlock_checkpoint.restore.plan import find_gap, user_mappings
from sandlock_checkpoint.restore.target import Target
from sandlock_sys.proc import Mapping as Line
from sandlock_sys.proc import read_maps

__all__ = ["SCRATCH_SIZE", "clear_space", "leave_scratch", "set_layout"]

SCRATCH_SIZE = 1 << 18
_KERNEL = {b"[vvar]", b"[vvar_vclock]", b"[vdso]"}
_MAY_MOVE_FIXED = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
_SET_MM = 35  # PR_SET_MM, linux/prctl.h, 3.3
_SET_MM_MAP = 14  # PR_SET_MM_MAP, 3.18: for the process itself without any capability
_NO_FILE = 0xFFFF_FFFF


def clear_space(target: Target, process: ProcessInfo) -> None:
    """Unmap all of the fresh process but the vDSO, which is moved, and scratch memory, which is made.

    The calls that do it are made by an instruction inside the vDSO; when that moves, they are made from its new place.
    """
    present = read_maps(target.pid)
    wanted = user_mappings(process)
    taken = [(area.start, area.end) for area in wanted] + [(line.start, line.end) for line in present]
    scratch = find_gap(taken, SCRATCH_SIZE)
    target.take_scratch(scratch, SCRATCH_SIZE)
    taken.append((scratch, scratch + SCRATCH_SIZE))
    kernel = [line for line in present if line.name in _KERNEL]
    if not any(line.start <= target.main.entry < line.end for line in kernel):
        raise RestoreError("vdso", "the fresh process has no vDSO to make its calls from")
    for line in present:
        if line not in kernel and line.name != b"[vsyscall]":
            target.call("munmap", line.start, line.size)
    captured = [area for area in wanted if area.kind in {MappingKind.VDSO, MappingKind.VVAR}]
    _move_kernel_pages(target, kernel, captured, taken)


def _move_kernel_pages(
    target: Target, present: list[Line], captured: list[Mapping], taken: list[tuple[int, int]]
) -> None:
    """Move [vvar...] and [vdso] together: the code finds its data at a fixed distance."""
    if not captured:
        return  # the program had unmapped it; ours stays where no captured mapping is, or mapping there fails loudly
    have = [(line.name, line.start - present[0].start, line.size) for line in present]
    want = [(area.name, area.start - captured[0].start, area.size) for area in captured]
    if have != want:
        raise RestoreError("vdso", f"the kernel's pages are laid out otherwise here: {have}, captured {want}")
    here, there = present[0].start, captured[0].start
    if here == there:
        return
    size = present[-1].end - here
    if abs(there - here) < size:
        # Both places overlap: by way of a third.
        between = find_gap(taken, size)
        _move(target, have, here, between)
        here = between
    _move(target, have, here, there)


def _move(target: Target, parts: list[tuple[bytes, int, int]], here: int, there: int) -> None:
    entry = target.main.entry
    for _, offset, size in parts:
        old, new = here + offset, there + offset
        target.call("mremap", old, size, size, _MAY_MOVE_FIXED, new)
        if old <= entry < old + size:
            target.main.entry = entry - here + there
    moved = {line.name: line.start for line in read_maps(target.pid) if line.name in _KERNEL}
    for name, offset, _ in parts:
        if moved.get(name) != there + offset:
            raise RestoreError("vdso", f"{name.decode()} did not move to {there + offset:#x}")


def set_layout(target: Target, layout: Layout) -> str:
    """Tell the kernel where the parts of the program are; return why it would not hear of it, "" when it did.

    Without it the heap does not grow by brk(2) (malloc then takes other memory), and /proc shows other arguments.
    """
    fields = (
        layout.start_code, layout.end_code, layout.start_data, layout.end_data, layout.start_brk, layout.brk,
        layout.start_stack, layout.arg_start, layout.arg_end, layout.env_start, layout.env_end,
    )  # fmt: skip
    words = b"".join(word.to_bytes(8, "little") for word in fields)
    # AT_NULL ends the vector; the kernel takes an even number of words.
    vector = target.put(layout.auxv, 256)
    words += vector.to_bytes(8, "little") + len(layout.auxv).to_bytes(4, "little") + _NO_FILE.to_bytes(4, "little")
    error = target.errno("prctl", _SET_MM, _SET_MM_MAP, target.put(words), len(words), 0)
    if not error:
        return ""
    return f"the kernel refused the layout of the program: errno {error} of prctl(PR_SET_MM)"


def leave_scratch(target: Target) -> None:
    """Unmap the scratch memory; nothing may be asked of the process by way of memory after that."""
    target.call("munmap", target.scratch, target.scratch_size)
