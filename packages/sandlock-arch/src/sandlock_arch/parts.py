"""The shape of an architecture folder: what each of its modules must offer, checked by mypy in its `arch`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sandlock_arch.call_abi import CallAbi
from sandlock_arch.registers import RegisterLayout
from sandlock_arch.rescue import Rescue
from sandlock_arch.stub import StubOperation

__all__ = ["Encoder", "Parts", "StubLowering"]


class Encoder(Protocol):
    """The instructions that code above this package needs on every architecture; `encode` modules have more."""

    def syscall(self) -> bytes:
        """Enter the kernel."""

    def trap(self) -> bytes:
        """Stop with SIGTRAP."""

    def ret(self) -> bytes:
        """Return from a function."""

    def load_immediate(self, register: str, value: int) -> bytes:
        """Set a general register to a 64-bit value, signed or not; the flags stay as they are."""

    def jump(self, source: int, target: int) -> bytes:
        """Go from address `source`, where this instruction stands, to `target`; the length is always the same."""


class StubLowering(Protocol):
    """How vDSO functions are replaced.

    Attributes:
        ENTRIES: system call name -> ELF symbol of every vDSO function that stands for a call.

    """

    ENTRIES: dict[str, str]

    def lower(self, operation: StubOperation) -> bytes:
        """Return position-independent code for `operation`, callable as the C function it replaces.

        Raise `StubError` if this architecture lacks the system call, or an operand has no encoding.
        """

    def landing_pad(self, entry: bytes) -> bytes:
        """Return what must stay first where code `entry` was, so that indirect calls still land; often nothing."""


class Parts(NamedTuple):
    """The lazily loaded modules of one folder."""

    abi: CallAbi
    registers: RegisterLayout
    encode: Encoder
    vdso_stubs: StubLowering
    rescue: Rescue | None
