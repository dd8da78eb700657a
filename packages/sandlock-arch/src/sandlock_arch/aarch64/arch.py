"""aarch64: the facts every launch needs. LEAN: see sandlock_arch.model."""

from __future__ import annotations

from sandlock_arch.aarch64.syscalls import LAST_REVIEWED, SYSCALLS
from sandlock_arch.model import Architecture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_arch.parts import Parts

__all__ = ["ARCHITECTURE"]


def _load() -> Parts:
    """Import the rest of this folder."""
    from sandlock_arch.aarch64 import encode, sigframe, vdso_stubs
    from sandlock_arch.aarch64.abi import ABI
    from sandlock_arch.aarch64.registers import REGISTERS
    from sandlock_arch.parts import Parts

    return Parts(ABI, REGISTERS, encode, vdso_stubs, sigframe)


ARCHITECTURE = Architecture(
    name="aarch64",
    oci_name="arm64",
    elf_machine=183,  # EM_AARCH64, linux/elf-em.h
    audit_arch=0xC00000B7,  # AUDIT_ARCH_AARCH64, linux/audit.h: EM_AARCH64 | __AUDIT_ARCH_64BIT | __AUDIT_ARCH_LE
    syscalls=SYSCALLS,
    last_reviewed_syscall=LAST_REVIEWED,
    foreign_bit=0,
    load=_load,
)
