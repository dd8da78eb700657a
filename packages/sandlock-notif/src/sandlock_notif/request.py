"""One notified system call, from its arrival to its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandlock_notif.listener import Listener

__all__ = ["Request"]


class Request:
    """A system call that waits for its answer. Only its supervisor makes one.

    What is read of the child's memory is kept in `copies`: whoever reads the same bytes again during this request gets
    the same copy, so a check and the act that follows it see the same thing, whatever the child writes meanwhile.

    Attributes:
        id: of the notification; unique per listener.
        tid: the calling thread, in this process's pid namespace. It belongs to the caller while the request lives.
        nr: the system call's number.
        arch: AUDIT_ARCH_* of the ABI that it came in by.
        listener: where it came from.

    """

    __slots__ = ("_copies", "_fields", "arch", "id", "listener", "nr", "tid")

    def __init__(self, listener: Listener, fields: tuple[int, ...]) -> None:
        self.id, self.tid, _, self.nr, self.arch = fields[:5]
        self.listener = listener
        self._fields = fields
        self._copies: dict[tuple[int, bool], bytes] | None = None

    @property
    def instruction_pointer(self) -> int:
        """The address after the system call instruction."""
        return self._fields[5]

    @property
    def args(self) -> tuple[int, ...]:
        """Six arguments, unsigned 64-bit."""
        return self._fields[6:]

    @property
    def copies(self) -> dict[tuple[int, bool], bytes]:
        """What was read of the child's memory: `{(address, whether it is a string): bytes}`; see `memory`."""
        if self._copies is None:
            self._copies = {}
        return self._copies

    def int_arg(self, index: int) -> int:
        """Return an argument as the kernel reads a C int: the low 32 bits, signed."""
        low = self._fields[6 + index] & 0xFFFFFFFF
        return low - (1 << 32) if low & 0x80000000 else low

    def waits(self) -> bool:
        """Whether the task still waits. What was opened or read by `tid` before is its own only if this holds."""
        return self.listener.valid(self.id)

    def __repr__(self) -> str:
        return f"<Request {self.id:#x} of thread {self.tid}: call {self.nr}>"
