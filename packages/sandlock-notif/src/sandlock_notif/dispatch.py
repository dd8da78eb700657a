"""Who answers which call: handler tables, and what is compiled from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from sandlock_notif.action import Action
from sandlock_notif.request import Request
from sandlock_policy.seccomp.opcodes import RET_USER_NOTIF
from sandlock_policy.seccomp.rules import ANY_BIT, ONE_OF, Condition, Rule

if TYPE_CHECKING:
    import asyncio

    from sandlock_arch import Architecture
    from sandlock_notif.deputies import Deputies
    from sandlock_notif.events import Sink
    from sandlock_notif.lending import Lent
    from sandlock_notif.processes import Processes
    from sandlock_sys.shortcut import Row, Shortcut

__all__ = ["BoundPort", "Dispatch", "Handle", "HandlerTable", "Outcome", "Services", "Trap", "filter_rules", "holds"]

Outcome: TypeAlias = Action | Awaitable[Action | None] | None
Handle: TypeAlias = Callable[[Request], Outcome]


@dataclass(frozen=True, slots=True)
class Trap:
    """One system call that a handler wants to be asked about.

    Attributes:
        syscall: its name; passed over on architectures that lack it.
        handle: returns the action, or None to leave the call to the next handler, or an awaitable of either, which
            becomes a task. Raises `Refusal` to deny. When every handler leaves it, the kernel runs the call.
        reason: why it must be trapped, for docs/syscalls.md.
        conditions: tests of arguments that the filter makes, so that other uses of the call cost nothing.
        cost: what an answer takes: "answer", "memory" (reads or writes the child's), "deputy", "task".
        row: how the call is read where it needs no thought; the table's `shorten` may have it served without us then.
        lent: the caller's plain function behind `handle`, for a thread that takes calls by itself (`lending`).

    """

    syscall: str
    handle: Handle
    reason: str
    conditions: tuple[Condition, ...] = ()
    cost: str = "answer"
    row: Row | None = None
    lent: Lent | None = None


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers work with, once the child exists.

    Attributes:
        loop: the supervisor's event loop; handlers run in its thread.
        arch: the child's architecture.
        processes: the index of the sandbox's processes.
        deputies: who makes system calls inside the sandbox's domain; None where no handler asked for them.
        report: takes events.
        pid: the first process, parked before its exec.
        end: ends the whole sandbox, for what cannot be enforced on a process; None where nobody provides it.

    """

    loop: asyncio.AbstractEventLoop
    arch: Architecture
    processes: Processes
    deputies: Deputies | None
    report: Sink
    pid: int
    end: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class BoundPort:
    """A port of the sandbox's: `inside` is its number to the program, `outside` to everybody else."""

    protocol: str
    inside: int
    outside: int


class HandlerTable(ABC):
    """One domain of served calls, with the state that is its own.

    Made before the launch, because the filter is compiled from its traps; attached when the child is parked; closed
    when no process of the sandbox is left. State of one process belongs into `Process.state`, which ends with it.
    """

    name: str
    """The domain, for documents and events."""
    while_parked: bool = True
    """Whether the child has to wait before its exec until `attach` is done; a domain that can say no is faster."""

    @abstractmethod
    def traps(self) -> Sequence[Trap]:
        """Return what it wants to be asked about; the same at every call."""

    def attach(self, services: Services) -> None:
        """Take what the work needs. The child has not executed its program yet, so memory may be read and changed."""
        _ = services

    def writes_below(self, folder: str) -> None:
        """Take note of a writable folder in memory that was made for this run, before `attach`."""
        _ = folder

    def show_memory(self, fd: int) -> bool:
        """Take `fd`, what is laid over /proc/meminfo, to write it anew; tell whether it was taken, before `attach`."""
        _ = fd
        return False

    def shorten(self, shortcut: Shortcut) -> None:
        """Say what calls with a `row` must not touch to be served without us; called whenever that is forgotten."""
        _ = shortcut

    def controls(self) -> Mapping[str, Callable[..., None]]:
        """Return what a policy callback may change of this domain, by the name of the `PolicyContext` method."""
        return {}

    def ports(self) -> Sequence[BoundPort]:
        """Return the ports that the sandbox has bound, of those that this domain knows."""
        return ()

    def largest_use(self) -> int | None:
        """Return the most bytes of memory in use since this was asked last, or None where it does not look at them."""
        return None

    async def close(self) -> None:  # noqa: B027  # most domains hold nothing
        """Free what the domain holds."""


class Dispatch:
    """The handlers of every trapped number of one architecture, in the order of the tables: first answer wins."""

    def __init__(self, arch: Architecture, tables: Iterable[HandlerTable]) -> None:
        traps: dict[int, list[Trap]] = {}
        self.tables = tuple(tables)
        for table in self.tables:
            for trap in table.traps():
                number = arch.syscalls.get(trap.syscall)
                if number is not None:
                    traps.setdefault(number, []).append(trap)
        self.arch = arch
        self.handlers: dict[int, tuple[Handle, ...]] = {number: _handles(found) for number, found in traps.items()}
        self.names = {number: found[0].syscall for number, found in traps.items()}
        # Nobody is passed over: only who is asked first, and always, can have a call served without being asked.
        self.rows: dict[int, Row] = {
            number: found[0].row for number, found in traps.items() if found[0].row and _always(found)
        }
        # Nobody else is asked about these; and what serves rows belongs to one thread.
        self.lent: dict[int, Lent] = {
            number: found[0].lent
            for number, found in traps.items()
            if found[0].lent and len(found) == 1 and not self.rows
        }


def filter_rules(tables: Iterable[HandlerTable]) -> tuple[Rule, ...]:
    """Return the filter's rules that send every trapped call to the supervisor."""
    return tuple(
        Rule(trap.syscall, trap.conditions, RET_USER_NOTIF, trap.reason) for table in tables for trap in table.traps()
    )


def holds(conditions: Sequence[Condition], args: Sequence[int]) -> bool:
    """Tell whether every condition holds for these six arguments, as the filter would."""
    return all(_holds(condition, args[condition.argument]) for condition in conditions)


def _holds(condition: Condition, argument: int) -> bool:
    value = argument & (0xFFFFFFFFFFFFFFFF if condition.wide else 0xFFFFFFFF)
    if condition.kind == ONE_OF:
        found = value & condition.mask in condition.values
    elif condition.kind == ANY_BIT:
        found = bool(value & condition.mask)
    else:
        low, high = condition.values
        found = low <= value <= high
    return found != condition.negate


def _always(traps: list[Trap]) -> bool:
    """Whether each of them is asked about every call that arrives: the filter has seen to their conditions."""
    return len({trap.conditions for trap in traps}) == 1


def _handles(traps: list[Trap]) -> tuple[Handle, ...]:
    """Return the handlers, each asked only when its own conditions hold: another's may have trapped the call."""
    if _always(traps):
        return tuple(trap.handle for trap in traps)
    return tuple(trap.handle if not trap.conditions else _guarded(trap) for trap in traps)


def _guarded(trap: Trap) -> Handle:
    def handle(request: Request) -> Outcome:
        return trap.handle(request) if holds(trap.conditions, request.args) else None

    return handle
