"""Make the mappings of a process anew, and fill them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from sandlock_checkpoint.errors import RestoreError
from sandlock_checkpoint.memory import FileIdentity, Mapping, MappingKind
from sandlock_checkpoint.model import ProcessInfo
from sandlock_checkpoint.restore.plan import differs, first_prot, map_flags, user_mappings
from sandlock_checkpoint.restore.target import Target
from sandlock_sys.errors import SyscallError

__all__ = ["MappingBuilder", "words_of"]

_MINUS_ONE = (1 << 64) - 1
_WRITE = 2  # PROT_WRITE
# VmFlags -> advice of madvise(2), asm-generic/mman-common.h
_ADVICE = {
    "dd": 16,  # MADV_DONTDUMP, 3.4
    "dc": 10,  # MADV_DONTFORK, 2.6.16
    "wf": 18,  # MADV_WIPEONFORK, 4.14
    "hg": 14,  # MADV_HUGEPAGE, 2.6.38
    "nh": 15,  # MADV_NOHUGEPAGE
    "mg": 12,  # MADV_MERGEABLE, 2.6.32
    "rr": 1,  # MADV_RANDOM
    "sr": 2,  # MADV_SEQUENTIAL
}
_GUARD = 102  # MADV_GUARD_INSTALL, 6.13
_OPTIONAL = {"hg", "nh", "mg", "rr", "sr"}  # without which the program runs as well
_SET_VMA, _SET_VMA_NAME = 0x53564D41, 0  # PR_SET_VMA, PR_SET_VMA_ANON_NAME, 5.17


@dataclass
class MappingBuilder:
    """Makes the mappings of one process.

    Attributes:
        target: the process.
        objects: descriptors in it of the checkpoint's shared memory.

    """

    target: Target
    objects: dict[int, int]
    _files: dict[tuple[bytes, int], int] = field(default_factory=dict)

    def build(self, process: ProcessInfo) -> None:
        """Make all mappings, empty."""
        for area in user_mappings(process):
            if area.kind in {MappingKind.VDSO, MappingKind.VVAR}:
                continue
            try:
                self._make(area)
            except SyscallError as error:
                raise RestoreError(words_of(area), str(error)) from error
        for fd in self._files.values():
            self.target.call("close", fd)
        self._files.clear()

    def _make(self, area: Mapping) -> None:
        fd = _MINUS_ONE
        if area.kind is MappingKind.FILE and area.file is not None:
            fd = self._open(area, area.file)
        elif area.kind is MappingKind.SHARED:
            fd = self.objects[area.memory]
        offset = 0 if area.kind is MappingKind.ANONYMOUS else area.offset
        got = self.target.call("mmap", area.start, area.size, first_prot(area), map_flags(area), fd, offset)
        if got != area.start:
            raise RestoreError(words_of(area), f"the kernel mapped it at {got:#x}")

    def _open(self, area: Mapping, known: FileIdentity) -> int:
        writing = area.shared and ("mw" in area.flags or bool(area.prot & _WRITE))
        flags = os.O_RDWR if writing else os.O_RDONLY
        if (known.path, flags) in self._files:
            return self._files[known.path, flags]
        fd = self.target.open(known.path, flags)
        facts = os.stat(f"/proc/{self.target.pid}/fd/{fd}")
        change = differs(known, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, contents=not area.shared)
        if change:
            raise RestoreError(f"{words_of(area)} {os.fsdecode(known.path)}", change)
        self._files[known.path, flags] = fd
        return fd

    def finish(self, process: ProcessInfo) -> list[str]:
        """Give the filled mappings their protection, advice, locks and names; return what the kernel refused."""
        refused = []
        for area in user_mappings(process):
            if area.kind in {MappingKind.VDSO, MappingKind.VVAR}:
                continue
            if first_prot(area) != area.prot:
                self.target.call("mprotect", area.start, area.size, area.prot)
            for flag, advice in _ADVICE.items():
                if flag in area.flags:
                    error = self.target.errno("madvise", area.start, area.size, advice)
                    if error and flag not in _OPTIONAL:
                        raise RestoreError(words_of(area), f"madvise({advice}) was refused: errno {error}")
            for guard in area.guards:
                error = self.target.errno("madvise", area.start + guard.offset, guard.length, _GUARD)
                if error:
                    raise RestoreError(words_of(area), f"its guard pages were refused: errno {error}")
            if "lo" in area.flags and self.target.errno("mlock", area.start, area.size):
                refused.append(f"{words_of(area)} was locked in memory")
            if area.name.startswith(b"[anon:"):
                name = self.target.put(area.name[6:-1] + b"\0")
                # EINVAL where the kernel has no such names; they are for people only.
                self.target.errno("prctl", _SET_VMA, _SET_VMA_NAME, area.start, area.size, name)
        return refused


def words_of(area: Mapping) -> str:
    """Return how a mapping is called in an error."""
    return f"mapping {area.start:x}-{area.end:x}"
