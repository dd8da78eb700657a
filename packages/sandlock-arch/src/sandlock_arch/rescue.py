"""What brings a thread back by itself when the tracer that was running calls in it dies: a signal frame.

A tracer that dies leaves its tracees running with whatever registers it had set. So while calls are injected, the
thread's stack holds a frame such as the kernel pushes for a signal handler, with the thread's own registers in it, and
the return address of the injected call leads to rt_sigreturn(2), which takes everything from there.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Frame", "Rescue"]


class Frame(NamedTuple):
    """`data` belongs at `address`, below the stack's red zone; `stack_pointer` is for the injected calls."""

    address: int
    data: bytes
    stack_pointer: int


class Rescue(Protocol):
    """One architecture's way; a module.

    Attributes:
        CALL_AND_RETURN: code that enters the kernel and then returns from a function; any will do.
        SIGNAL_RETURN: code that makes the call rt_sigreturn, as a libc has it for its handlers; any will do.

    """

    CALL_AND_RETURN: tuple[bytes, ...]
    SIGNAL_RETURN: tuple[bytes, ...]

    def build(self, general: bytes, vector: bytes, mask: int, signal_return: int, call: int) -> Frame:
        """Return the frame of a thread with these register sets and signal mask.

        Arguments:
            general: the general set, as at a stop before signal delivery; an interrupted call is made again.
            vector: the set that holds floating point and vector registers.
            mask: blocked signals.
            signal_return: address of SIGNAL_RETURN in the process.
            call: number of the interrupted call that is made again, where the registers name restart_syscall(2) in its
                place; -1 where they name it.

        """

    def vector_note(self) -> int:
        """Return the NT_* type of the set that `build` wants as `vector`."""
