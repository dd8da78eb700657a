"""From a policy to the handler tables that serve it, in the order in which they are asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandlock_notif import filter_rules
from sandlock_policy.data.landlock import FS_WRITE_FILE
from sandlock_policy.errors import PolicyError, Problem
from sandlock_runtime.processors import boot_s, shown_processors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sandlock_notif import HandlerTable
    from sandlock_notif.handlers.callback import CallbackTable
    from sandlock_notif.handlers.exec import ExecTable
    from sandlock_notif.handlers.files.table import FilesTable
    from sandlock_notif.handlers.machine import MachineTable
    from sandlock_notif.handlers.random import RandomTable
    from sandlock_notif.handlers.time import TimeTable
    from sandlock_notif.image import ImageChange
    from sandlock_policy import Context, Plan, Policy
    from sandlock_policy.seccomp.rules import Rule
    from sandlock_runtime.hooks import Hooks
    from sandlock_runtime.served_view import ServedView
    from sandlock_runtime.web import Web

__all__ = ["is_in_memory", "limits_for", "rules_for", "tables_for"]

_EXECS = ("execve", "execveat")
_SHOWS = ("/", "/proc")  # grants of these show processes
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
    from sandlock_notif.memory_pace import data_limit  # lazy: as below

    bound = data_limit(policy.max_memory)
    return ((_RLIMIT_DATA, bound, bound),)


def _folders_in_memory(plan: Plan) -> tuple[str, ...]:
    """Return the write grants that are kept in memory, so that what is written there counts."""
    written = {path for path, access, _ in plan.fs_rules if access & FS_WRITE_FILE}
    if plan.view is not None:
        written.update(host for host, _, only in plan.view.binds if not only)
    kept = _devices_in_memory()
    return tuple(sorted(path for path in written if os.path.isdir(path) and os.stat(path).st_dev in kept))


def is_in_memory(path: str) -> bool:
    """Tell whether a path is on a tmpfs."""
    return os.stat(path).st_dev in _devices_in_memory()


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


def _exec(
    policy: Policy, hooks: Hooks | None, files: FilesTable | None, *, killable: bool
) -> tuple[list[HandlerTable], ExecTable | None]:
    """Return the domains that change new images, and the table that lets execs through, None where nobody looks."""
    changes: list[TimeTable | RandomTable] = []
    if policy.time_start is not None:
        from sandlock_notif.handlers.time import TimeTable
        from sandlock_policy.rules.times import time_ns

        changes.append(TimeTable(time_ns(policy.time_start)))
    if policy.random_seed is not None:
        from sandlock_notif.handlers.random import RandomTable

        changes.append(RandomTable(policy.random_seed))
    judged = hooks is not None and (hooks.policy_fn is not None or any(call in _EXECS for call, _ in hooks.handlers))
    looks: list[ImageChange] = list(changes)
    if files is not None and (policy.fs_denied or judged):
        from sandlock_notif.handlers.files.running import ImageCheck

        looks.append(ImageCheck(files.view))
    if not (looks or judged):
        return [], None
    from sandlock_notif.handlers.exec import ExecTable

    return list(changes), ExecTable(looks, verify=judged, killable=killable)


def _files(
    policy: Policy,
    context: Context,
    plan: Plan,
    hooks: Hooks | None,
    shown: ServedView | None,
    texts: Mapping[str, bytes],
    machine: MachineTable | None,
) -> FilesTable | None:
    live = hooks is not None and hooks.policy_fn is not None
    bare = plan.view is None and (policy.name or policy.num_cpus or any(rule[0] in _SHOWS for rule in plan.fs_rules))
    if not (policy.fs_denied or policy.deterministic_dirs or live or bare or shown or texts):
        return None
    from sandlock_runtime.file_tables import file_table

    return file_table(policy, context, plan, shown, texts, machine, live=live)


def tables_for(
    policy: Policy,
    context: Context,
    plan: Plan,
    hooks: Hooks | None,
    names: Mapping[str, Sequence[str]],
    web: Web | None,
    shown: ServedView | None = None,
    *,
    killable: bool,
) -> Sequence[HandlerTable]:
    """Return the tables for what `plan` says must be served, and for the caller's hooks.

    `names` has the addresses of every host name in the policy; `web` takes its HTTP connections; `shown` is what
    is served of root, mounts and branch; `killable` says that the filter has WAIT_KILLABLE_RECV.

    Each domain is imported only by who uses it. The observers are first, and decide nothing; then the callback, since
    it is asked before anything is done; the caller's handlers come last, since they can never allow what a built-in one
    refuses.
    """
    tables: list[HandlerTable] = _watching(hooks) if hooks is not None else []
    callback: CallbackTable | None = None
    if hooks is not None and hooks.policy_fn is not None:
        from sandlock_notif.handlers.callback import CallbackTable

        callback = CallbackTable(hooks.policy_fn, policy.policy_timeout_s)
        tables.append(callback)
    tables += _limits(policy, plan, shown)
    texts: dict[str, bytes] = {}
    if plan.filter.served_network:
        tables += _network(policy, names, web, socket_files=shown is None)
        from sandlock_runtime.network_files import network_files

        texts = network_files(policy, plan, names, web, shown.root if shown is not None else None)
    proc = _serves_proc(policy, plan, shown)
    machine = _sizes(policy, plan, tables, proc=proc)
    files = _files(policy, context, plan, hooks, shown, texts, machine if proc else None)
    changes, execs = _exec(policy, hooks, files, killable=killable)
    if files is not None and execs is not None:
        files.look_at_images(execs.look_at)
    tables += changes
    if policy.max_processes is not None or callback is not None or files is not None:
        from sandlock_notif.handlers.signals import ChildSignals

        tables.append(ChildSignals())  # where much is notified, a child's end must not interrupt it
    tables += [files] if files is not None else []
    tables += [machine] if machine is not None else []
    tables += _machine(policy, plan)
    tables += _asked_for(hooks, plan)
    tables += [execs] if execs is not None else []  # behind all who judge: it lets go, and looks at what came of it
    if callback is not None:
        for table in tables:
            callback.context.bind(table.controls())
    return tables


def _watching(hooks: Hooks) -> list[HandlerTable]:
    """Return the tables that decide nothing."""
    if not hooks.timelines:
        return list(hooks.observers)
    from sandlock_notif.handlers.endings import Endings

    return [*hooks.observers, Endings()]


def _asked_for(hooks: Hooks | None, plan: Plan) -> Iterator[HandlerTable]:
    """Yield what the caller asked for beside the policy."""
    if hooks is not None and hooks.trackable:
        from sandlock_notif.handlers.tracking import TrackingTable

        yield TrackingTable()
    if hooks is not None and hooks.handlers:
        from sandlock_notif.handlers.user import UserTable

        yield UserTable(hooks.handlers, plan.filter)


def _limits(policy: Policy, plan: Plan, shown: ServedView | None) -> Iterator[HandlerTable]:
    if policy.max_processes is not None:
        from sandlock_notif.handlers.processes import ProcessLimit

        yield ProcessLimit(policy.max_processes)
    if policy.max_memory is not None:
        from sandlock_notif.handlers.memory import MemoryLimit

        yield MemoryLimit(policy.max_memory, _folders_in_memory(plan))
    if policy.max_disk is not None and shown is not None:
        from sandlock_notif.handlers.disk import DiskLimit

        yield from [DiskLimit(branch, policy.max_disk) for branch in shown.branches]


def _network(
    policy: Policy, names: Mapping[str, Sequence[str]], web: Web | None, *, socket_files: bool
) -> Sequence[HandlerTable]:
    from sandlock_notif.handlers.network import network_tables

    _check_sockets(policy)
    intercept = web.intercept if web is not None else None
    return network_tables(policy, names, intercept=intercept, socket_files=socket_files)


def _check_sockets(policy: Policy) -> None:
    """Refuse to let a program reach a run's control socket: it would be taken for its user, and have the run saved.

    Raises:
        PolicyError: `unix_allow` names one.

    """
    if not policy.unix_allow:
        return
    from sandlock_runtime.registry import folders

    private = [os.path.realpath(folder) + os.sep for folder in folders()]
    for index, path in enumerate(policy.unix_allow):
        if os.path.realpath(path).startswith(tuple(private)):
            reason = "by this socket a run is controlled, and the program would be taken for you"
            raise PolicyError([Problem(f"network.unix[{index}]", path, reason, "leave it out")])


def _serves_proc(policy: Policy, plan: Plan, shown: ServedView | None) -> bool:
    """Tell whether a /proc of the host's is seen, so that what is not the sandbox's has to be hidden in it."""
    if not policy.supervisor or plan.view is not None:
        return False
    return any(rule[0] in _SHOWS for rule in plan.fs_rules) or (shown is not None and shown.shows_proc)


def _sizes(policy: Policy, plan: Plan, tables: Sequence[HandlerTable], *, proc: bool) -> MachineTable | None:
    """Return what tells of memory, load and time since boot, where namespaces do not; `proc`: in a /proc too."""
    own_clock = plan.view is not None and plan.view.shows_proc
    if policy.max_memory is None and not proc and (policy.time_start is None or own_clock):
        return None
    from sandlock_notif.handlers.machine import MachineTable

    limit = None
    if policy.max_memory is not None:
        from sandlock_notif.handlers.memory import MemoryLimit

        limit = next(table for table in tables if isinstance(table, MemoryLimit))
    return MachineTable(shown_processors(policy), boot_s(policy), limit)


def _machine(policy: Policy, plan: Plan) -> Iterator[HandlerTable]:
    """Yield what tells of the machine by calls; files are the view's or namespaces'."""
    if policy.name is not None and plan.view is None:
        from sandlock_notif.handlers.hostname import HostnameTable

        yield HostnameTable(policy.name)
    if plan.num_cpus is not None:
        from sandlock_notif.handlers.processors import ProcessorsTable

        yield ProcessorsTable(plan.num_cpus)
