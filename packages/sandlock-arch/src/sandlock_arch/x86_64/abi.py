"""x86_64 calls: x86-64 psABI, and the comment above entry_SYSCALL_64 in arch/x86/entry/entry_64.S."""

from __future__ import annotations

from sandlock_arch.call_abi import CallAbi

__all__ = ["ABI"]

ABI = CallAbi(
    number_register="rax",
    argument_registers=("rdi", "rsi", "rdx", "r10", "r8", "r9"),
    return_register="rax",
    clobbered_registers=("rcx", "r11"),  # SYSCALL itself saves rip and rflags there
    syscall_instruction=b"\x0f\x05",
    trap_instruction=b"\xcc",
    trap_advances=1,
    function_arguments=("rdi", "rsi", "rdx", "rcx", "r8", "r9"),
    callee_saved=("rbx", "rbp", "r12", "r13", "r14", "r15"),
    stack_alignment=16,
    red_zone=128,
    restart_register="rax",
    restart_source="orig_rax",
    rewinds_before_stop=False,
    instruction_alignment=1,
    signal_restorer=True,
    packed_epoll_event=True,
    never_restarted=frozenset(
        "epoll_wait epoll_pwait epoll_pwait2 rt_sigtimedwait semop semtimedop io_getevents io_pgetevents".split()
    ),
    number_load=b"\xb8",  # mov eax, imm32
)
