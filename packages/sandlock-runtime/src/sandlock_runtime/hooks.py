"""What a caller hangs into a sandbox: a policy callback, handlers of its own, listeners. LEAN."""

from __future__ import annotations

from sandlock_policy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif import Event, HandlerTable
    from sandlock_notif.handlers.callback import PolicyFunction
    from sandlock_notif.handlers.user import UserHandler

__all__ = ["Hooks"]


@record(frozen=True, slots=True)
class Hooks:
    """Callback, handlers and listeners of one run.

    Attributes:
        policy_fn: asked about events, or None.
        handlers: `(system call name or number, handler)`, asked after the built-in ones, in order.
        audits: told every event of the supervisor and of the HTTP proxy, in their threads, one at a time. They make no
            supervisor where none is needed.
        observers: tables that are asked before all others, and leave every call to them.

    """

    policy_fn: PolicyFunction | None = None
    handlers: tuple[tuple[str | int, UserHandler], ...] = ()
    audits: tuple[Callable[[Event], None], ...] = ()
    observers: tuple[HandlerTable, ...] = ()

    def also_told(self, audit: Callable[[Event], None]) -> Hooks:
        """Return these with one more listener."""
        return Hooks(self.policy_fn, self.handlers, (*self.audits, audit), self.observers)

    @property
    def served(self) -> bool:
        """Whether somebody has to answer calls for these."""
        return self.policy_fn is not None or bool(self.handlers) or bool(self.observers)
