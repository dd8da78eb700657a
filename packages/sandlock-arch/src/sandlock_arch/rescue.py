"""What brings a thread back by itself when the tracer that was running calls in it dies: a signal frame.

A tracer that dies leaves its tracees running with whatever registers it had set. So while calls are injected, the
thread's stack holds a frame such as the kernel pushes for a signal handler, with the thread's own registers in it, and
the return address of the injected call leads to rt_sigreturn(2), which takes everything from there.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple, Protocol

__all__ = ["BAD_STACK_FLAGS", "Frame", "Rescue", "generic_head"]

BAD_STACK_FLAGS = 0x7F  # no valid ss_flags: rt_sigreturn then leaves the alternate stack alone
_SIGINFO = 128  # sizeof(siginfo_t)
_MASK_ROOM = 128  # of uc_sigmask, kept for a bigger one: asm/ucontext.h of arm64 and riscv


class Frame(NamedTuple):
    """A signal frame, and how it is gone back by.

    Attributes:
        address: where `data` belongs, below the stack's red zone.
        data: its bytes.
        calling: registers that an injected call has beside its number and arguments, so that it returns into the frame.
        going_back: registers with which the thread would go back by the frame at once.

    """

    address: int
    data: bytes
    calling: Mapping[str, int]
    going_back: Mapping[str, int]


class Rescue(Protocol):
    """One architecture's way; a module.

    Attributes:
        CALL_AND_RETURN: code that enters the kernel and then returns from a function; any will do.
        SIGNAL_RETURN: code that makes the call rt_sigreturn, as a libc or the vDSO has it for handlers; any will do.
        NOTES: NT_* types of the sets that `build` wants beside the general one.

    """

    CALL_AND_RETURN: tuple[bytes, ...]
    SIGNAL_RETURN: tuple[bytes, ...]
    NOTES: tuple[int, ...]

    def build(
        self, general: bytes, sets: Mapping[int, bytes], mask: int, signal_return: int, call: int
    ) -> Frame | None:
        """Return the frame of a thread with these register sets and signal mask; None where a needed set is not there.

        Arguments:
            general: the general set, as at a stop before signal delivery; an interrupted call is made again.
            sets: by type, those of `NOTES` that the thread has.
            mask: blocked signals.
            signal_return: address of SIGNAL_RETURN in the process.
            call: number of the interrupted call that is made again, where the registers name restart_syscall(2) in its
                place; -1 where they name it.

        """


def generic_head(mask: int) -> bytes:
    """Return what stands before the registers in struct rt_sigframe of arm64 and riscv: siginfo, and struct ucontext.

    It ends where uc_mcontext begins, at a multiple of 16.
    """
    head = struct.pack("<QQQIxxxxQ", 0, 0, 0, BAD_STACK_FLAGS, 0) + struct.pack("<Q", mask).ljust(_MASK_ROOM, b"\0")
    return (bytes(_SIGINFO) + head).ljust(-(-(_SIGINFO + len(head)) // 16) * 16, b"\0")
