"""What a caller hangs into a sandbox: a policy callback and handlers of its own. LEAN."""

from __future__ import annotations

from sandlock_policy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_notif.handlers.callback import PolicyFunction
    from sandlock_notif.handlers.user import UserHandler

__all__ = ["Hooks"]


@record(frozen=True, slots=True)
class Hooks:
    """Callback and handlers of one `Sandbox`.

    Attributes:
        policy_fn: asked about events, or None.
        handlers: `(system call name or number, handler)`, asked after the built-in ones, in order.

    """

    policy_fn: PolicyFunction | None = None
    handlers: tuple[tuple[str | int, UserHandler], ...] = ()
