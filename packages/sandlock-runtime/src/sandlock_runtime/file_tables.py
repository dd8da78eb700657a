"""What the supervisor serves of files: denied paths, generated files, hidden processes, ordered listings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandlock_notif.fs.layers.virtual import VirtualLayer
from sandlock_notif.fs.view import View
from sandlock_notif.handlers.files.table import FilesTable
from sandlock_policy.data.landlock import FS_WRITE_FILE
from sandlock_policy.errors import PolicyError, Problem, RuleError
from sandlock_policy.paths import expand_path
from sandlock_policy.view import HOSTNAME, MASKED, PROCESSOR_FILES
from sandlock_runtime.handover import takes_fds
from sandlock_runtime.processors import boot_s, processor_file, shown_processors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandlock_notif import Process
    from sandlock_notif.handlers.machine import MachineTable
    from sandlock_policy import Context, Plan, Policy
    from sandlock_runtime.served_view import ServedView

__all__ = ["file_table"]

_KERNEL_NAME = "/proc/sys/kernel/hostname"


def file_table(
    policy: Policy,
    context: Context,
    plan: Plan,
    shown: ServedView | None,
    texts: Mapping[str, bytes],
    machine: MachineTable | None = None,
    *,
    live: bool,
) -> FilesTable | None:
    """Return the table of file calls, or None where no file call has to be served.

    Where namespaces show a run's own name, processors and processes, nothing is served for these. `shown` has the root,
    the mounts and the branch that are served; `texts` are further files; `machine` tells of the sandbox in a served
    /proc; `live` says that paths may be denied while the program runs.

    Raises:
        PolicyError: a denied path cannot be told.

    """
    virtual = _generated(policy, plan, shown, texts, machine) if plan.view is None else None
    if not (policy.fs_denied or policy.deterministic_dirs or live or virtual or shown):
        return None
    denied = []
    for index, path in enumerate(policy.fs_denied):
        try:
            text = expand_path(path.removeprefix("-"), cwd=context.cwd, home=context.home, variables=context.env)
        except RuleError as fault:
            raise PolicyError([Problem(f"filesystem.deny[{index}]", path, str(fault), fault.remedy)]) from fault
        denied.append(os.fsencode(text))
    writable = [os.fsencode(path) for path, access, _ in plan.fs_rules if access & FS_WRITE_FILE]
    if plan.view is not None:
        writable += [os.fsencode(path) for path, access, _ in plan.view.rules if access & FS_WRITE_FILE]
    view = View(denied=denied, virtual=virtual or None, writable=writable, live=live)
    if shown is not None:
        view.show(root=shown.root, binds=shown.binds, branches=shown.branches, writable=shown.writable)
    # Where a program's directories cannot be copied, nothing can be hidden either (features.py), but by a callback.
    listed = takes_fds() or live
    return FilesTable(view, ordered=policy.deterministic_dirs, listed=listed)


def _generated(
    policy: Policy, plan: Plan, shown: ServedView | None, texts: Mapping[str, bytes], machine: MachineTable | None
) -> VirtualLayer:
    """Return what the kernel has no namespaces for here: the same files, made when they are opened."""
    layer = VirtualLayer()
    if policy.name is not None:
        name = os.fsencode(policy.name) + b"\n"
        for path in (HOSTNAME, _KERNEL_NAME):
            layer.add(os.fsencode(path), lambda _: name)
    for path, text in texts.items():
        layer.add(os.fsencode(path), _always(text))
    if policy.num_cpus is not None:
        for path in PROCESSOR_FILES:
            if os.path.exists(path):
                layer.add(os.fsencode(path), _processors(path, policy))
    if machine is not None:
        _show_machine(layer, plan, shown, machine)
    return layer


def _always(text: bytes) -> Callable[[Process], bytes]:
    return lambda _: text


def _show_machine(layer: VirtualLayer, plan: Plan, shown: ServedView | None, machine: MachineTable) -> None:
    from sandlock_notif.fs.proc_files import Reach, add_proc_files  # lazy: few policies are served a /proc

    for path in MASKED:
        if os.path.exists(path):
            layer.add(os.fsencode(path), lambda _: b"")
    rules = [*plan.fs_rules, *(plan.served_view.rules if plan.served_view is not None else ())]
    granted = [os.fsencode(path) for path, _, _ in rules]
    places = [bind.at for bind in shown.binds] if shown is not None else []
    reach = Reach(granted, places, shown is not None and shown.root is not None)
    devices = [b"lo", b"eth0"] if plan.filter.served_network or plan.filter.tcp else [b"lo"]
    add_proc_files(layer, machine, reach, devices)


def _processors(path: str, policy: Policy) -> Callable[[Process], bytes]:
    started_s = boot_s(policy)
    return lambda _: processor_file(path, shown_processors(policy), started_s)
