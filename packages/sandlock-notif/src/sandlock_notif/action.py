"""What becomes of a notified call: a closed choice, one class each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_sys.deputy import Completion

__all__ = [
    "CONTINUE",
    "Action",
    "Answered",
    "Continue",
    "Delegate",
    "Errno",
    "Hold",
    "InjectFd",
    "Kill",
    "Value",
]


@dataclass(frozen=True, slots=True)
class Continue:
    """The kernel runs the call itself.

    Never the end of a verdict that depended on the child's memory: the kernel reads that memory again.
    """


@dataclass(frozen=True, slots=True)
class Errno:
    """The call fails with this positive errno; `reason` goes into the event and makes it a denial."""

    number: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """The call returns this, signed 64-bit."""

    value: int


@dataclass(frozen=True, slots=True)
class InjectFd:
    """A copy of `fd` is put into the child and the call returns its number there, in one atomic step (5.14).

    Attributes:
        fd: this process's fd. With `owned`, it is closed afterwards, whatever happens.
        target: the number it must get there, closing what has it; None for the lowest free one. Where the kernel
            cannot honour it the call fails.
        close_on_exec: the copy is close-on-exec.
        owned: whether the supervisor closes `fd`.
        then: told the child's number, after the answer.

    """

    fd: int
    target: int | None = None
    close_on_exec: bool = False
    owned: bool = True
    then: Callable[[int], None] | None = None


@dataclass(frozen=True, slots=True)
class Delegate:
    """A system call for the deputy, inside the sandbox's Landlock domain; its result answers the child.

    Attributes:
        number: of the call.
        arguments: up to six; integers as they are, bytes by address. Never an address that came from the child.
        opens: the call returns an fd: the child gets a copy of it, with `close_on_exec`, and the number as its answer.
            Otherwise the child's call returns the same value or errno.
        close_on_exec: as for `InjectFd`.
        then: given the completion first, it returns what to answer instead; only without `opens`.

    """

    number: int
    arguments: tuple[int | bytes | bytearray, ...]
    opens: bool = False
    close_on_exec: bool = False
    then: Callable[[Completion], Action] | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """The task waits until somebody calls the function that `register` is given, with the action, once.

    That function may be called from the loop's thread only. A task that dies meanwhile is forgotten; what is still held
    when the supervisor closes is denied.
    """

    register: Callable[[Callable[[Action], None]], None]


@dataclass(frozen=True, slots=True)
class Kill:
    """The calling process gets `signal` (SIGKILL by default), and the call EPERM in case it survives that."""

    signal: int = 9
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """The handler has answered by itself (a deputy did, say); nothing is left to do."""

    value: int = field(default=0)


Action: TypeAlias = Continue | Errno | Value | InjectFd | Delegate | Hold | Kill | Answered

CONTINUE: Final = Continue()
