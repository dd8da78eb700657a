"""x86_64: struct rt_sigframe (arch/x86/include/asm/sigframe.h) for a thread that calls are injected into."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from sandlock_arch.call_abi import RESTART_CODES, error_of
from sandlock_arch.rescue import BAD_STACK_FLAGS, Frame
from sandlock_arch.x86_64.abi import ABI
from sandlock_arch.x86_64.registers import NT_X86_XSTATE, REGISTERS

__all__ = ["CALL_AND_RETURN", "NOTES", "SIGNAL_RETURN", "build"]

CALL_AND_RETURN: tuple[bytes, ...] = (b"\x0f\x05\xc3",)  # syscall; ret
SIGNAL_RETURN: tuple[bytes, ...] = (
    b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05",  # mov rax, 15; syscall
    b"\xb8\x0f\x00\x00\x00\x0f\x05",  # mov eax, 15; syscall
)
NOTES: tuple[int, ...] = (NT_X86_XSTATE,)  # the whole xsave area

_FP_XSTATE, _SIGCONTEXT_SS, _STRICT_RESTORE_SS = 1, 2, 4  # UC_*, asm/ucontext.h
_MAGIC1, _MAGIC2 = 0x46505853, 0x46505845  # FP_XSTATE_MAGIC1 and 2, asm/sigcontext.h
_SOFTWARE = 464  # offset of struct _fpx_sw_bytes in the legacy area
_FEATURES = 512  # offset of xstate_bv in the xsave header
_ALL_FEATURES = 464  # where ptrace tells XCR0 in the same bytes
_ORDER = "r8 r9 r10 r11 r12 r13 r14 r15 rdi rsi rbp rbx rdx rax rcx rsp rip eflags".split()  # struct sigcontext
_NO_CALL = (1 << 64) - 1
_RED_ZONE = ABI.red_zone


def build(general: bytes, sets: Mapping[int, bytes], mask: int, signal_return: int, call: int) -> Frame | None:
    """Return the frame; see `Rescue.build`."""
    vector = sets.get(NT_X86_XSTATE)
    if vector is None:
        return None
    registers = REGISTERS.general.unpack(general)
    if registers["orig_rax"] != _NO_CALL and error_of(registers["rax"]) in RESTART_CODES:
        registers["rax"] = registers["orig_rax"] if call < 0 else call
        registers["rip"] -= len(ABI.syscall_instruction)
    state = _state(vector)
    state_at = (registers["rsp"] - _RED_ZONE - len(state)) & ~63
    words = [registers[name] for name in _ORDER]
    segments = registers["cs"] | registers["ss"] << 48
    context = struct.pack("<18Q", *words) + struct.pack("<6Q", segments, 0, 0, mask, 0, state_at) + bytes(64)
    flags = _FP_XSTATE | _SIGCONTEXT_SS | _STRICT_RESTORE_SS
    head = struct.pack("<QQQIxxxxQ", flags, 0, 0, BAD_STACK_FLAGS, 0)
    frame = struct.pack("<Q", signal_return) + head + context + struct.pack("<Q", mask) + bytes(128)
    # As at a function's entry: the stack pointer is 8 below a multiple of 16, at the return address.
    frame_at = ((state_at - len(frame)) & ~15) - 8
    gap = bytes(state_at - frame_at - len(frame))
    # A call returns by the frame's first word, and rt_sigreturn looks for the rest behind it.
    back = {"rip": signal_return, "rsp": frame_at + len(struct.pack("<Q", signal_return)), "orig_rax": _NO_CALL}
    return Frame(frame_at, frame + gap + state, {"rsp": frame_at}, back)


def _state(vector: bytes) -> bytes:
    """Return an xsave area as rt_sigreturn takes it, from one as ptrace gives it: with a mark, size and features."""
    (features,) = struct.unpack_from("<Q", vector, _ALL_FEATURES)
    software = struct.pack("<IIQI", _MAGIC1, len(vector) + 4, features, len(vector)).ljust(48, b"\0")
    return vector[:_SOFTWARE] + software + vector[_FEATURES:] + struct.pack("<I", _MAGIC2)
