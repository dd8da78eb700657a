"""aarch64 calls: AAPCS64, and arch/arm64/kernel/{entry.S,signal.c}."""

from __future__ import annotations

from sandlock_arch.call_abi import CallAbi

__all__ = ["ABI"]

ABI = CallAbi(
    number_register="x8",
    argument_registers=("x0", "x1", "x2", "x3", "x4", "x5"),
    return_register="x0",
    clobbered_registers=(),  # general registers are all kept; SVE state beyond the low 128 bits is not
    syscall_instruction=b"\x01\x00\x00\xd4",  # svc #0
    trap_instruction=b"\x00\x00\x20\xd4",  # brk #0
    trap_advances=0,
    function_arguments=("x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7"),
    # x18 is the platform register: free for a C function on Linux, but nobody's to use for scratch.
    callee_saved=("x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30"),
    stack_alignment=16,
    red_zone=0,
    restart_register="x0",
    restart_source=None,  # orig_x0 is not in user_pt_regs
    rewinds_before_stop=True,
    instruction_alignment=4,
    signal_restorer=True,  # defined for the 32-bit ABI, so the member is there
    packed_epoll_event=False,
    # NT_ARM_SVE: Documentation/arch/arm64/sve.rst, section 3; a call also leaves streaming mode (sme.rst, section 3).
    clobbered_regsets=(0x405,),
)
