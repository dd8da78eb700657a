"""A new program image, stopped before its first instruction: what may be looked at and changed then."""

from __future__ import annotations

import os
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from sandlock_notif.task_facts import contents
from sandlock_sys import procmem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandlock_arch import Architecture
    from sandlock_arch.stub import StubOperation
    from sandlock_arch.vdso_patch import VdsoPatch
    from sandlock_notif.processes import Process

__all__ = ["AT_RANDOM", "Image", "ImageChange", "Patches"]

AT_RANDOM = 25  # linux/auxvec.h, 2.6.29: the address of 16 random bytes
_AT_EXECFN = 31  # linux/auxvec.h, 2.6.27: the address of what execve was given as the path
_PATH_MAX = 4096
_ENTRY = Struct("=QQ")  # Elf64_auxv_t


class ImageChange(Protocol):
    """A domain that changes program images before they run.

    Attributes:
        begins: `prepare` writes what a program finds when it begins; an image that is restored has it already.

    """

    begins: bool

    def stubs(self) -> Mapping[str, StubOperation]:
        """Return what entries of the vDSO shall do, by the name of the system call; asked in the loop's thread."""

    def prepare(self, process: Process | None) -> Callable[[Image], None] | None:
        """Return what else is done to the next image, in a thread of its own; asked in the loop's thread."""


class Patches:
    """Plans the changes of a vDSO once for each image of it: the kernel has the same one for every process."""

    def __init__(self, arch: Architecture) -> None:
        self._arch = arch
        self._known: dict[tuple[bytes, tuple[tuple[str, StubOperation], ...]], VdsoPatch] = {}

    def of(self, image: bytes, operations: Mapping[str, StubOperation]) -> VdsoPatch:
        """Return the plan for this image. Raises VdsoError and StubError, as `vdso_patch.plan` does."""
        key = image, tuple(sorted(operations.items()))
        found = self._known.get(key)
        if found is None:
            from sandlock_arch.vdso_patch import plan  # lazy: loads what reads ELF, which most runs never need

            found = self._known[key] = plan(self._arch, image, operations)
        return found


class Image:
    """The image of a process that its tracer has stopped at PTRACE_EVENT_EXEC. It has one thread, in the kernel.

    Attributes:
        pid: of the process, which cannot go before its tracer lets it.

    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._memory = -1

    def command_line(self) -> bytes:
        """Return the arguments as the kernel put them there, each with its NUL."""
        return contents(f"/proc/{self.pid}/cmdline")

    def file_name(self) -> bytes:
        """Return the path that execve was given, as the kernel copied it."""
        return procmem.read_string(self.pid, self.auxiliary().get(_AT_EXECFN, 0), _PATH_MAX + 64)

    def runs(self, file: int) -> bool:
        """Tell whether the program is the file that an fd pins."""
        return os.path.samestat(os.fstat(file), os.stat(b"/proc/%d/exe" % self.pid))

    def auxiliary(self) -> dict[int, int]:
        """Return the auxiliary vector, without its end."""
        data = contents(f"/proc/{self.pid}/auxv")
        return dict(_ENTRY.iter_unpack(data[: len(data) // _ENTRY.size * _ENTRY.size]))

    def vdso(self) -> range:
        """Return where the vDSO is mapped; empty without one."""
        for line in contents(f"/proc/{self.pid}/maps").splitlines():
            words = line.split(None, 5)
            if len(words) == 6 and words[5] == b"[vdso]" and words[4] == b"0":  # a file of this name has an inode
                start, _, end = words[0].partition(b"-")
                return range(int(start, 16), int(end, 16))
        return range(0)

    def change_vdso(self, patches: Patches, operations: Mapping[str, StubOperation]) -> None:
        """Make the entries of the vDSO behave so; the copy of this process alone."""
        where = self.vdso()
        if not where:
            return
        for write in patches.of(procmem.peek(self._open(), where.start, len(where)), operations).writes:
            self.write(where.start + write.offset, write.data)

    def write(self, address: int, data: bytes) -> None:
        """Write `data`, to read-only pages as well: the process gets a copy of its own."""
        procmem.poke(self._open(), address, data)

    def close(self) -> None:
        """Close what was opened."""
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def _open(self) -> int:
        if self._memory < 0:
            self._memory = procmem.open_memory(self.pid, write=True)
        return self._memory
