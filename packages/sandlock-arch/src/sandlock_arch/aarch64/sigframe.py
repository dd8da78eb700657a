"""aarch64: struct rt_sigframe (arch/arm64/kernel/signal.c) for a thread that calls are injected into.

Floating point and SVE registers are in it; streaming mode and ZA (SME) are not: every call leaves that mode.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from sandlock_arch.aarch64.registers import NT_ARM_SVE, REGISTERS
from sandlock_arch.aarch64.syscalls import SYSCALLS
from sandlock_arch.registers import NT_PRFPREG
from sandlock_arch.rescue import Frame, generic_head

__all__ = ["CALL_AND_RETURN", "NOTES", "SIGNAL_RETURN", "build"]

CALL_AND_RETURN: tuple[bytes, ...] = (b"\x01\x00\x00\xd4\xc0\x03\x5f\xd6",)  # svc #0; ret
SIGNAL_RETURN: tuple[bytes, ...] = (b"\x68\x11\x80\xd2\x01\x00\x00\xd4",)  # mov x8, #139; svc #0
NOTES: tuple[int, ...] = (NT_PRFPREG, NT_ARM_SVE)

_RESERVED = 4096  # sizeof sigcontext.__reserved, asm/sigcontext.h
_FPSIMD, _FPSIMD_SIZE, _VECTORS = 0x46508001, 528, 512  # FPSIMD_MAGIC; v0-v31
_SVE = 0x53564501  # SVE_MAGIC
_SVE_HEADER = struct.Struct("<IIHHHH")  # struct user_sve_header, asm/ptrace.h
_IN_SVE_FORMAT = 1  # SVE_PT_REGS_SVE
_BRANCH_TYPE = 0xC00  # PSTATE.BTYPE: what the next instruction must be where pages are guarded


def build(general: bytes, sets: Mapping[int, bytes], mask: int, signal_return: int, call: int) -> Frame | None:
    """Return the frame; see `Rescue.build`."""
    floating = sets.get(NT_PRFPREG)
    if floating is None:
        return None
    registers = REGISTERS.general.unpack(general)
    pstate = registers["pstate"]
    if call >= 0 and registers["x8"] == SYSCALLS["restart_syscall"]:
        registers["x8"] = call
    records = _fpsimd(floating)
    sve = _sve(sets.get(NT_ARM_SVE, b""))
    if len(records) + len(sve) <= _RESERVED - 8:  # a null record ends the list
        records += sve
    context = struct.pack("<Q", 0) + REGISTERS.general.pack(registers)
    data = generic_head(mask) + context.ljust(-(-len(context) // 16) * 16, b"\0") + records.ljust(_RESERVED, b"\0")
    address = (registers["sp"] - len(data)) & ~15
    plain = {"sp": address, "pstate": pstate & ~_BRANCH_TYPE}
    return Frame(address, data, {**plain, "x30": signal_return}, {**plain, "pc": signal_return})


def _fpsimd(floating: bytes) -> bytes:
    """Return struct fpsimd_context from struct user_fpsimd_state, which has the control words behind the vectors."""
    return struct.pack("<II", _FPSIMD, _FPSIMD_SIZE) + floating[_VECTORS : _VECTORS + 8] + floating[:_VECTORS]


def _sve(state: bytes) -> bytes:
    """Return struct sve_context and its registers, or b"" where the thread has none beyond the others."""
    if len(state) < _SVE_HEADER.size:
        return b""
    _, _, length, _, flags, _ = _SVE_HEADER.unpack_from(state)
    if not flags & _IN_SVE_FORMAT:
        return b""
    size = 32 * length + 17 * (length // 8)  # Z registers; P registers and FFR, a bit for each byte
    registers = state[_SVE_HEADER.size : _SVE_HEADER.size + size]
    whole = -(-(16 + size) // 16) * 16
    return (struct.pack("<IIHHHH", _SVE, whole, length, 0, 0, 0) + registers).ljust(whole, b"\0")
