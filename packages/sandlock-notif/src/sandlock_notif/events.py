"""What the supervisor tells about its work: denials, faults of handlers, whatever an audit wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Event", "Sink", "ignore"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: "denied", "fault" (a handler raised, was late, or answered nonsense; the call was denied), "audit",
            "bound" (a port).
        syscall: name of the call, or "".
        tid: the calling thread, or 0.
        errno: what the call failed with, or 0.
        reason: why, for a person. Text from the child is data: escape it before a terminal sees it.
        detail: what the handler knows beside: path, endpoint, ...

    """

    kind: str
    syscall: str = ""
    tid: int = 0
    errno: int = 0
    reason: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)


Sink: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Take an event and tell nobody."""
