"""What a caller hangs into a sandbox: a policy callback, handlers of its own, listeners. LEAN."""

from __future__ import annotations

from sandlock_policy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif import Event, HandlerTable
    from sandlock_notif.handlers.callback import PolicyFunction
    from sandlock_notif.handlers.user import UserHandler
    from sandlock_notif.timeline import Note

__all__ = ["Hooks", "hooks_of"]


@record(frozen=True, slots=True)
class Hooks:
    """Callback, handlers and listeners of one run.

    Attributes:
        policy_fn: asked about events, or None.
        handlers: `(system call name or number, handler)`, asked after the built-in ones, in order.
        audits: told every event of the supervisor and of the HTTP proxy, in their threads, one at a time. They make no
            supervisor where none is needed.
        observers: tables that are asked before all others, and leave every call to them.
        timelines: told what the run does over time, see `sandlock_notif.timeline`. They make no supervisor either.
        trackable: a checkpoint's tracker may watch what the run writes.

    """

    policy_fn: PolicyFunction | None = None
    handlers: tuple[tuple[str | int, UserHandler], ...] = ()
    audits: tuple[Callable[[Event], None], ...] = ()
    observers: tuple[HandlerTable, ...] = ()
    timelines: tuple[Note, ...] = ()
    trackable: bool = False

    def also_told(self, audit: Callable[[Event], None], timeline: Note) -> Hooks:
        """Return these with one more listener, and one who is told what the run does over time."""
        timelines = (*self.timelines, timeline)
        audits = (*self.audits, audit)
        return Hooks(self.policy_fn, self.handlers, audits, self.observers, timelines, self.trackable)

    @property
    def served(self) -> bool:
        """Whether somebody has to answer calls for these."""
        return self.policy_fn is not None or bool(self.handlers) or bool(self.observers) or self.trackable


def hooks_of(
    policy_fn: PolicyFunction | None,
    handlers: tuple[tuple[str | int, UserHandler], ...],
    audit: Callable[[Event], None] | None,
    *,
    trackable: bool,
) -> Hooks:
    """Return the hooks of a `Sandbox`; an `AuditLog` is told what the run does over time as well."""
    if audit is None:
        return Hooks(policy_fn, handlers, trackable=trackable)
    from sandlock_runtime.audit import AuditLog  # lazy: most have none

    timelines = (audit.note,) if isinstance(audit, AuditLog) else ()
    return Hooks(policy_fn, handlers, (audit,), timelines=timelines, trackable=trackable)
