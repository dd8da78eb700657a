"""x86_64 register sets: struct user_regs_struct of asm/user_64.h and arch/x86/kernel/ptrace.c."""

from __future__ import annotations

from sandlock_arch.registers import NT_PRFPREG, NT_PRSTATUS, RegisterLayout, RegisterSet, Regset

__all__ = ["NT_X86_SHSTK", "NT_X86_XSTATE", "REGISTERS"]

# linux/elf.h
NT_X86_XSTATE = 0x202
NT_X86_SHSTK = 0x204

_GENERAL = RegisterSet(
    tuple(
        "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss "
        "fs_base gs_base ds es fs gs".split()
    )
)

REGISTERS = RegisterLayout(
    general=_GENERAL,
    program_counter="rip",
    stack_pointer="rsp",
    thread_pointer="fs_base",
    thread_pointer_note=NT_PRSTATUS,
    syscall_number="orig_rax",
    syscall_number_note=NT_PRSTATUS,
    regsets=(
        # XSAVE layout without compaction; its size follows XCR0 and, with AMX, the thread's permissions.
        Regset("xstate", NT_X86_XSTATE, None, "2.6.35", covers=(NT_PRFPREG,)),
        Regset("fp", NT_PRFPREG, 512, "2.6.34"),  # struct user_i387_struct, an FXSAVE image
        Regset("shadow_stack", NT_X86_SHSTK, 8, "6.6", words=RegisterSet(("ssp",))),
    ),
)
