"""riscv64 calls: the RISC-V calling convention (psABI), and arch/riscv/kernel/{entry.S,signal.c}."""

from __future__ import annotations

from sandlock_arch.call_abi import CallAbi

__all__ = ["ABI"]

ABI = CallAbi(
    number_register="a7",
    argument_registers=("a0", "a1", "a2", "a3", "a4", "a5"),
    return_register="a0",
    clobbered_registers=(),  # general registers are all kept; the vector state is lost
    syscall_instruction=b"\x73\x00\x00\x00",  # ecall
    trap_instruction=b"\x73\x00\x10\x00",  # ebreak, the uncompressed one
    trap_advances=0,
    function_arguments=("a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7"),
    # ra is the caller's to keep, but a function returns through it; gp and tp belong to the whole thread.
    callee_saved=("gp", "tp", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11"),
    stack_alignment=16,
    red_zone=0,
    restart_register="a0",
    restart_source=None,  # orig_a0 is not in user_regs_struct
    rewinds_before_stop=True,
    instruction_alignment=2,  # of compressed instructions
    signal_restorer=False,
    packed_epoll_event=False,
    # NT_RISCV_VECTOR: Documentation/arch/riscv/vector.rst, section 3.
    clobbered_regsets=(0x901,),
)
