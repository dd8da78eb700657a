"""riscv64: the facts every launch needs. LEAN: see sandlock_arch.model."""

from __future__ import annotations

from sandlock_arch.model import Architecture
from sandlock_arch.riscv64.syscalls import LAST_REVIEWED, SYSCALLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_arch.parts import Parts

__all__ = ["ARCHITECTURE"]


def _load() -> Parts:
    """Import the rest of this folder."""
    from sandlock_arch.parts import Parts
    from sandlock_arch.riscv64 import encode, sigframe, vdso_stubs
    from sandlock_arch.riscv64.abi import ABI
    from sandlock_arch.riscv64.registers import REGISTERS

    return Parts(ABI, REGISTERS, encode, vdso_stubs, sigframe)


ARCHITECTURE = Architecture(
    name="riscv64",
    oci_name="riscv64",
    elf_machine=243,  # EM_RISCV, linux/elf-em.h
    audit_arch=0xC00000F3,  # AUDIT_ARCH_RISCV64, linux/audit.h: EM_RISCV | __AUDIT_ARCH_64BIT | __AUDIT_ARCH_LE
    syscalls=SYSCALLS,
    last_reviewed_syscall=LAST_REVIEWED,
    foreign_bit=0,
    load=_load,
)
