"""From a policy to the handler tables that serve it, in the order in which they are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandlock_notif import filter_rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandlock_notif import HandlerTable
    from sandlock_notif.handlers.callback import CallbackTable
    from sandlock_policy import Plan, Policy
    from sandlock_policy.seccomp.rules import Rule
    from sandlock_runtime.hooks import Hooks

__all__ = ["rules_for", "tables_for"]


def rules_for(policy: Policy, plan: Plan, tables: Sequence[HandlerTable]) -> tuple[Rule, ...]:
    """Return what the filter gets beside the denials of the plan: which sockets there may be, and the traps."""
    if not plan.filter.served_network:
        return filter_rules(tables)
    from sandlock_notif.handlers.network import network_filter_rules  # lazy: as below

    return (*network_filter_rules(policy), *filter_rules(tables))


def tables_for(
    policy: Policy, plan: Plan, hooks: Hooks | None, names: Mapping[str, Sequence[str]]
) -> Sequence[HandlerTable]:
    """Return the tables for what `plan` says must be served, and for the caller's hooks.

    `names` has the addresses of every host name in the policy.

    Each domain is imported only by who uses it. The callback comes first, since it is asked before anything is done;
    the caller's handlers come last, since they can never allow what a built-in one refuses.
    """
    tables: list[HandlerTable] = []
    callback: CallbackTable | None = None
    if hooks is not None and hooks.policy_fn is not None:
        from sandlock_notif.handlers.callback import CallbackTable

        callback = CallbackTable(hooks.policy_fn, policy.policy_timeout_s)
        tables.append(callback)
    if policy.max_processes is not None:
        from sandlock_notif.handlers.processes import ProcessLimit

        tables.append(ProcessLimit(policy.max_processes))
    if plan.filter.served_network:
        from sandlock_notif.handlers.network import network_tables

        tables += network_tables(policy, names)
    if plan.num_cpus is not None:
        from sandlock_notif.handlers.processors import ProcessorsTable

        tables.append(ProcessorsTable(plan.num_cpus))
    if hooks is not None and hooks.handlers:
        from sandlock_notif.handlers.user import UserTable

        tables.append(UserTable(hooks.handlers, plan.filter))
    for table in tables:
        if callback is not None:
            callback.context.bind(table.controls())
    return tables
