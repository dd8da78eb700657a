"""x86_64: the facts every launch needs. LEAN: see sandlock_arch.model."""

from __future__ import annotations

from sandlock_arch.model import Architecture
from sandlock_arch.x86_64.syscalls import LAST_REVIEWED, SYSCALLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_arch.parts import Parts

__all__ = ["ARCHITECTURE"]


def _load() -> Parts:
    """Import the rest of this folder."""
    from sandlock_arch.parts import Parts
    from sandlock_arch.x86_64 import encode, sigframe, vdso_stubs
    from sandlock_arch.x86_64.abi import ABI
    from sandlock_arch.x86_64.registers import REGISTERS

    return Parts(ABI, REGISTERS, encode, vdso_stubs, sigframe)


ARCHITECTURE = Architecture(
    name="x86_64",
    oci_name="amd64",
    elf_machine=62,  # EM_X86_64, linux/elf-em.h
    audit_arch=0xC000003E,  # AUDIT_ARCH_X86_64, linux/audit.h: EM_X86_64 | __AUDIT_ARCH_64BIT | __AUDIT_ARCH_LE
    syscalls=SYSCALLS,
    last_reviewed_syscall=LAST_REVIEWED,
    foreign_bit=0x40000000,  # __X32_SYSCALL_BIT, asm/unistd.h
    load=_load,
)
