"""riscv64: struct rt_sigframe (arch/riscv/kernel/signal.c) for a thread that calls are injected into."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from sandlock_arch.registers import NT_PRFPREG
from sandlock_arch.rescue import Frame, generic_head
from sandlock_arch.riscv64.registers import NT_RISCV_VECTOR, REGISTERS
from sandlock_arch.riscv64.syscalls import SYSCALLS

__all__ = ["CALL_AND_RETURN", "NOTES", "SIGNAL_RETURN", "build"]

CALL_AND_RETURN: tuple[bytes, ...] = (
    b"\x73\x00\x00\x00\x82\x80",  # ecall; c.jr ra
    b"\x73\x00\x00\x00\x67\x80\x00\x00",  # ecall; ret
)
SIGNAL_RETURN: tuple[bytes, ...] = (b"\x93\x08\xb0\x08\x73\x00\x00\x00",)  # li a7, 139; ecall
NOTES: tuple[int, ...] = (NT_PRFPREG, NT_RISCV_VECTOR)

_FLOATING = 516  # of struct __riscv_extra_ext_header before its reserved word, asm/sigcontext.h
_VECTOR = 0x53465457  # RISCV_V_MAGIC, 6.5
_VECTOR_STATE = 48  # struct __riscv_v_ext_state: vstart, vl, vtype, vcsr, vlenb and a pointer, asm/ptrace.h
_HEADER = struct.Struct("<II")


def build(general: bytes, sets: Mapping[int, bytes], mask: int, signal_return: int, call: int) -> Frame | None:
    """Return the frame; see `Rescue.build`."""
    floating = sets.get(NT_PRFPREG)
    if floating is None:
        return None
    registers = REGISTERS.general.unpack(general)
    if call >= 0 and registers["a7"] == SYSCALLS["restart_syscall"]:
        registers["a7"] = call
    before = generic_head(mask) + REGISTERS.general.pack(registers) + floating.ljust(_FLOATING, b"\0") + bytes(4)
    vector = sets.get(NT_RISCV_VECTOR, b"")
    contents = vector[_VECTOR_STATE - 8 :]
    size = len(before) + _HEADER.size * (2 if vector else 1) + (_VECTOR_STATE + len(contents) if vector else 0)
    address = (registers["sp"] - size) & ~15
    extra = b""
    if vector:
        at = address + len(before) + _HEADER.size + _VECTOR_STATE
        extra = _HEADER.pack(_VECTOR, _HEADER.size + _VECTOR_STATE + len(contents))
        extra += vector[: _VECTOR_STATE - 8] + struct.pack("<Q", at) + contents
    data = before + extra + _HEADER.pack(0, 0)
    return Frame(address, data, {"sp": address, "ra": signal_return}, {"sp": address, "pc": signal_return})
