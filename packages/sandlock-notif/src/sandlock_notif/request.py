"""One notified system call, from its arrival to its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandlock_sys.turn import Notified

if TYPE_CHECKING:
    from sandlock_notif.listener import Listener

__all__ = ["Request"]


class Request(Notified):
    """A system call that waits for its answer. Only its supervisor makes one.

    What is read of the child's memory is kept in `copies`: whoever reads the same bytes again during this request gets
    the same copy, so a check and the act that follows it see the same thing, whatever the child writes meanwhile.

    Attributes:
        id: of the notification; unique per listener.
        tid: the calling thread, in this process's pid namespace. It belongs to the caller while the request lives.
        nr: the system call's number.
        arch: AUDIT_ARCH_* of the ABI that it came in by.
        instruction_pointer: the address after the system call instruction.
        args: six arguments, unsigned 64-bit; `int_arg(index)` is one as the kernel reads a C int.
        listener: where it came from.

    """

    __slots__ = ("_copies", "listener")

    listener: Listener
    _copies: dict[tuple[int, bool], bytes]

    @property
    def copies(self) -> dict[tuple[int, bool], bytes]:
        """What was read of the child's memory: `{(address, whether it is a string): bytes}`; see `memory`."""
        try:
            return self._copies
        except AttributeError:  # most calls are answered without a look at it
            self._copies = {}
            return self._copies

    def waits(self) -> bool:
        """Whether the task still waits. What was opened or read by `tid` before is its own only if this holds."""
        return self.listener.valid(self.id)

    def __repr__(self) -> str:
        return f"<Request {self.id:#x} of thread {self.tid}: call {self.nr}>"
