"""What an architecture is: plain facts at once, the rest on first use.

LEAN: this module, `registry` and the folders' `arch` and `syscalls` are imported by every launch, so they import
nothing but each other. Everything else is loaded by the first access to a lazy property.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_arch.call_abi import CallAbi
    from sandlock_arch.parts import Encoder, Parts, StubLowering
    from sandlock_arch.registers import RegisterLayout
    from sandlock_arch.rescue import Rescue

__all__ = ["Architecture"]


class Architecture:
    """One processor architecture with the Linux ABI on it. There is one object per architecture; compare by identity.

    Attributes:
        name: as uname(2) and our folder spell it, such as "x86_64".
        oci_name: as container images spell it (GOARCH; image-spec, config.md), such as "amd64".
        elf_machine: e_machine of its executables, EM_* of linux/elf-em.h.
        audit_arch: the token seccomp and ptrace report, AUDIT_ARCH_* of linux/audit.h.
        syscalls: name -> number of every system call of the native ABI.
        last_reviewed_syscall: the highest number in that table; filters answer ENOSYS above it.
        foreign_bit: set in the numbers of a second ABI that shares `audit_arch` (x32: 0x40000000), 0 where none does.

    """

    __slots__ = (
        "_load",
        "_names",
        "_parts",
        "audit_arch",
        "elf_machine",
        "foreign_bit",
        "last_reviewed_syscall",
        "name",
        "oci_name",
        "syscalls",
    )

    def __init__(
        self,
        *,
        name: str,
        oci_name: str,
        elf_machine: int,
        audit_arch: int,
        syscalls: dict[str, int],
        last_reviewed_syscall: int,
        foreign_bit: int,
        load: Callable[[], Parts],
    ) -> None:
        self.name = name
        self.oci_name = oci_name
        self.elf_machine = elf_machine
        self.audit_arch = audit_arch
        self.syscalls = syscalls
        self.last_reviewed_syscall = last_reviewed_syscall
        self.foreign_bit = foreign_bit
        self._load = load
        self._names: dict[int, str] = {}
        self._parts: Parts | None = None

    def __repr__(self) -> str:
        return f"<Architecture {self.name}>"

    def name_of(self, number: int) -> str:
        """Return the name of system call `number`, or the number as text where the table has none."""
        if not self._names:
            self._names = {nr: name for name, nr in self.syscalls.items()}
        return self._names.get(number) or str(number)

    @property
    def abi(self) -> CallAbi:
        """Return the registers and instructions of calls."""
        return self._loaded().abi

    @property
    def registers(self) -> RegisterLayout:
        """Return the register sets as ptrace hands them out."""
        return self._loaded().registers

    @property
    def encode(self) -> Encoder:
        """Return the instruction encoders."""
        return self._loaded().encode

    @property
    def vdso_stubs(self) -> StubLowering:
        """Return the replacements of vDSO functions."""
        return self._loaded().vdso_stubs

    @property
    def rescue(self) -> Rescue | None:
        """Return what brings a thread back when its tracer dies, None for nothing."""
        return self._loaded().rescue

    def _loaded(self) -> Parts:
        if self._parts is None:
            self._parts = self._load()
        return self._parts
