"""From a policy to the handler tables that serve it, in the order in which they are asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandlock_notif import filter_rules
from sandlock_policy.data.landlock import FS_WRITE_FILE
from sandlock_policy.errors import PolicyError, Problem, RuleError
from sandlock_policy.paths import expand_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandlock_notif import HandlerTable
    from sandlock_notif.handlers.callback import CallbackTable
    from sandlock_policy import Context, Plan, Policy
    from sandlock_policy.seccomp.rules import Rule
    from sandlock_runtime.hooks import Hooks
    from sandlock_runtime.web import Web

__all__ = ["limits_for", "rules_for", "tables_for"]

_RLIMIT_DATA = 2  # asm-generic/resource.h; private writable mappings count since 4.7


def rules_for(policy: Policy, plan: Plan, tables: Sequence[HandlerTable]) -> tuple[Rule, ...]:
    """Return what the filter gets beside the denials of the plan: which sockets there may be, and the traps."""
    if not plan.filter.served_network:
        return filter_rules(tables)
    from sandlock_notif.handlers.network import network_filter_rules  # lazy: as below

    return (*network_filter_rules(policy), *filter_rules(tables))


def limits_for(policy: Policy) -> tuple[tuple[int, int, int], ...]:
    """Return the (resource, soft, hard) limits that the kernel enforces in support of what is served."""
    if policy.max_memory is None:
        return ()
    from sandlock_notif.handlers.memory import data_limit  # lazy: as below

    bound = data_limit(policy.max_memory)
    return ((_RLIMIT_DATA, bound, bound),)


def _folders_in_memory(plan: Plan) -> tuple[str, ...]:
    """Return the write grants that are kept in memory, so that what is written there counts."""
    written = {path for path, access, _ in plan.fs_rules if access & FS_WRITE_FILE}
    if plan.view is not None:
        written.update(host for host, _, only in plan.view.binds if not only)
    kept = _devices_in_memory()
    return tuple(sorted(path for path in written if os.path.isdir(path) and os.stat(path).st_dev in kept))


def _devices_in_memory() -> frozenset[int]:
    """Return the device numbers of every tmpfs that is mounted (proc_pid_mountinfo(5))."""
    found = set()
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            fields, _, rest = line.partition(b" - ")
            if rest.startswith(b"tmpfs "):
                major, minor = fields.split(b" ")[2].split(b":")
                found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def _files(policy: Policy, context: Context, *, live: bool) -> HandlerTable:
    from sandlock_notif.fs.view import View  # lazy: most sandboxes see files as they are
    from sandlock_notif.handlers.files.table import FilesTable

    denied = []
    for index, path in enumerate(policy.fs_denied):
        try:
            text = expand_path(path.removeprefix("-"), cwd=context.cwd, home=context.home, variables=context.env)
        except RuleError as fault:
            raise PolicyError([Problem(f"filesystem.deny[{index}]", path, str(fault), fault.remedy)]) from fault
        denied.append(os.fsencode(text))
    return FilesTable(View(denied=denied, live=live), ordered=policy.deterministic_dirs)


def tables_for(
    policy: Policy,
    context: Context,
    plan: Plan,
    hooks: Hooks | None,
    names: Mapping[str, Sequence[str]],
    web: Web | None,
) -> Sequence[HandlerTable]:
    """Return the tables for what `plan` says must be served, and for the caller's hooks.

    `names` has the addresses of every host name in the policy; `web` takes its HTTP connections.

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
    if policy.max_memory is not None:
        from sandlock_notif.handlers.memory import MemoryLimit

        tables.append(MemoryLimit(policy.max_memory, _folders_in_memory(plan)))
    if plan.filter.served_network:
        from sandlock_notif.handlers.network import network_tables

        tables += network_tables(policy, names, intercept=web.intercept if web is not None else None)
    live = hooks is not None and hooks.policy_fn is not None
    if policy.fs_denied or policy.deterministic_dirs or live:
        tables.append(_files(policy, context, live=live))
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
