"""riscv64 register sets: struct user_regs_struct of asm/ptrace.h and arch/riscv/kernel/ptrace.c."""

from __future__ import annotations

from sandlock_arch.registers import NT_PRFPREG, NT_PRSTATUS, RegisterLayout, RegisterSet, Regset

__all__ = ["NT_RISCV_TAGGED_ADDR_CTRL", "NT_RISCV_VECTOR", "REGISTERS"]

# linux/elf.h
NT_RISCV_VECTOR = 0x901
NT_RISCV_TAGGED_ADDR_CTRL = 0x902

_GENERAL = RegisterSet(
    tuple("pc ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6".split())
)

REGISTERS = RegisterLayout(
    general=_GENERAL,
    program_counter="pc",
    stack_pointer="sp",
    thread_pointer="tp",
    thread_pointer_note=NT_PRSTATUS,
    syscall_number="a7",
    syscall_number_note=NT_PRSTATUS,
    regsets=(
        Regset("fp", NT_PRFPREG, 264, "4.15"),  # struct __riscv_d_ext_state: f0-f31 and fcsr, padded
        # struct __riscv_v_regset_state, then 32 registers of vlenb bytes; ENODATA before the thread's first vector use.
        Regset("vector", NT_RISCV_VECTOR, None, "6.5"),
        Regset("tagged_address", NT_RISCV_TAGGED_ADDR_CTRL, 8, "6.13", words=RegisterSet(("control",))),
    ),
)
