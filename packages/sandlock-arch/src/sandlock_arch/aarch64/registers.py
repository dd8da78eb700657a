"""aarch64 register sets: struct user_pt_regs of asm/ptrace.h and arch/arm64/kernel/ptrace.c."""

from __future__ import annotations

from sandlock_arch.registers import NT_PRFPREG, RegisterLayout, RegisterSet, Regset

__all__ = [
    "NT_ARM_FPMR",
    "NT_ARM_GCS",
    "NT_ARM_PACA_KEYS",
    "NT_ARM_PACG_KEYS",
    "NT_ARM_PAC_ENABLED_KEYS",
    "NT_ARM_PAC_MASK",
    "NT_ARM_POE",
    "NT_ARM_SSVE",
    "NT_ARM_SVE",
    "NT_ARM_SYSTEM_CALL",
    "NT_ARM_TAGGED_ADDR_CTRL",
    "NT_ARM_TLS",
    "NT_ARM_ZA",
    "NT_ARM_ZT",
    "REGISTERS",
]

# linux/elf.h
NT_ARM_TLS = 0x401
NT_ARM_SYSTEM_CALL = 0x404
NT_ARM_SVE = 0x405
NT_ARM_PAC_MASK = 0x406
NT_ARM_PACA_KEYS = 0x407
NT_ARM_PACG_KEYS = 0x408
NT_ARM_TAGGED_ADDR_CTRL = 0x409
NT_ARM_PAC_ENABLED_KEYS = 0x40A
NT_ARM_SSVE = 0x40B
NT_ARM_ZA = 0x40C
NT_ARM_ZT = 0x40D
NT_ARM_FPMR = 0x40E
NT_ARM_POE = 0x40F
NT_ARM_GCS = 0x410

REGISTERS = RegisterLayout(
    general=RegisterSet((*(f"x{number}" for number in range(31)), "sp", "pc", "pstate")),
    program_counter="pc",
    stack_pointer="sp",
    thread_pointer="tpidr_el0",
    thread_pointer_note=NT_ARM_TLS,
    syscall_number="x8",
    # Writing x8 at a system call stop changes what the program sees afterwards, not the call that is made.
    syscall_number_note=NT_ARM_SYSTEM_CALL,
    regsets=(
        # 8 bytes (tpidr_el0) before 6.3, and where there is no SME; 16 with tpidr2_el0 after it.
        Regset("tls", NT_ARM_TLS, None, "3.7", words=RegisterSet(("tpidr_el0", "tpidr2_el0"))),
        Regset("sve", NT_ARM_SVE, None, "4.15", covers=(NT_PRFPREG,)),
        # struct user_fpsimd_state: v0-v31 of 16 bytes, fpsr, fpcr, 8 bytes of padding.
        Regset("fp", NT_PRFPREG, 528, "3.7"),
        # Streaming mode: writing SSVE enters it, writing SVE leaves it, so only the set whose header is active counts.
        Regset("ssve", NT_ARM_SSVE, None, "5.19"),
        Regset("za", NT_ARM_ZA, None, "5.19"),
        Regset("zt", NT_ARM_ZT, 64, "6.3"),
        Regset("fpmr", NT_ARM_FPMR, 8, "6.9", words=RegisterSet(("fpmr",))),
        Regset("system_call", NT_ARM_SYSTEM_CALL, 4, "3.19"),  # int: -1 outside a call
        Regset(
            "pac_mask", NT_ARM_PAC_MASK, 16, "5.0", writable=False, words=RegisterSet(("data_mask", "instruction_mask"))
        ),
        # The key sets need CONFIG_CHECKPOINT_RESTORE; without them a restored process fails its first authentication.
        Regset("pac_address_keys", NT_ARM_PACA_KEYS, 64, "5.1"),  # four keys of 128 bits
        Regset("pac_generic_key", NT_ARM_PACG_KEYS, 16, "5.1"),
        Regset("pac_enabled_keys", NT_ARM_PAC_ENABLED_KEYS, 8, "5.13", words=RegisterSet(("enabled",))),
        Regset("tagged_address", NT_ARM_TAGGED_ADDR_CTRL, 8, "5.10", words=RegisterSet(("control",))),
        Regset("permission_overlay", NT_ARM_POE, 8, "6.12", words=RegisterSet(("por_el0",))),
        Regset(
            "shadow_stack",
            NT_ARM_GCS,
            24,
            "6.13",
            words=RegisterSet(("features_enabled", "features_locked", "gcspr_el0")),
        ),
    ),
)
