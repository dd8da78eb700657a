"""`confine`: the calling process itself gives up what a policy does not grant, for good."""

from __future__ import annotations

import os

from sandlock_arch import native
from sandlock_policy.seccomp.filter import compile_filter
from sandlock_runtime.errors import ConfinementError
from sandlock_runtime.features import host_features
from sandlock_runtime.launch import child_ruleset
from sandlock_runtime.prepare import encode_rules, make_context, plan_for
from sandlock_sys import landlock, prctl, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_policy import Policy, Protection

__all__ = ["confine"]

# What belongs to a new process: its environment, its limits in time, its place.
_NOT_HERE = ("cwd", "clean_env", "env", "timeout", "grace", "max_cpu", "private_tmp", "no_randomize_memory",
             "no_huge_pages", "no_coredump", "cpu_cores", "max_open_files")  # fmt: skip


def confine(policy: Policy) -> tuple[Protection, ...]:
    """Confine the calling thread, and all it starts, for good: files, ports, scopes and system calls.

    Call it while the process has one thread: others stay as they are. Files that are open stay usable. There is no
    guard and no namespace: what the process starts may outlive it, confined.

    Returns:
        What is enforced, and by which layer.

    Raises:
        ConfinementError: fields that cannot be enforced in place, each by name; nothing has happened then.
        PolicyError: the policy cannot be enforced on this host, or names what does not exist; likewise.
        SyscallError: the kernel refused a step. The steps before it hold.

    """
    given = policy.given()
    wrong = ", ".join(name for name in _NOT_HERE if name in given)
    if wrong:
        raise ConfinementError(
            "confine", f"{wrong}: of a new process, and confine() changes this one", remedy="leave it out"
        )
    context, _ = make_context(policy, None)
    plan = plan_for(policy.replace(namespaces="off", supervisor=False), context, host_features())
    program = compile_filter(native(), plan.filter)
    handles = plan.handled_fs | plan.handled_net | plan.scoped
    ruleset = child_ruleset(plan, encode_rules(plan.fs_rules)) if handles else -1
    try:
        prctl.set_no_new_privs()
        if ruleset >= 0:
            landlock.restrict_self(ruleset)
    finally:
        if ruleset >= 0:
            os.close(ruleset)
    seccomp.set_mode_filter(program)
    return plan.protections
