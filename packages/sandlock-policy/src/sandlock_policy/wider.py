"""Whether one policy lets a program do what another does not, field by field.

Values are compared as they are written: a folder below a granted one counts as another, because a link can stand in
the way. So a policy may be called wider than it is, and never narrower; a field without a rule here must not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from sandlock_policy.fields import FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_policy.model import Policy

    _Rule: TypeAlias = Callable[[Policy, Policy, str], bool]

__all__ = ["wider_fields"]


def wider_fields(old: Policy, new: Policy) -> tuple[str, ...]:
    """Return the paths of the fields in which `new` may allow what `old` does not, in the order of the table."""
    found = []
    for field in FIELDS:
        if getattr(old, field.name) == getattr(new, field.name):
            continue
        rule = _RULES.get(field.name)
        if rule is None or not rule(old, new, field.name):
            found.append(field.path)
    return tuple(found)


def _granted(old: Policy, new: Policy, name: str) -> bool:
    """Every grant is one that there was."""
    return set(getattr(new, name)) <= set(getattr(old, name))


def _readable(old: Policy, new: Policy, name: str) -> bool:
    """Who may write may read."""
    return set(getattr(new, name)) <= {*old.fs_readable, *old.fs_writable}


def _denied(old: Policy, new: Policy, name: str) -> bool:
    """Everything that was denied still is."""
    return set(getattr(new, name)) >= set(getattr(old, name))


def _at_most(old: Policy, new: Policy, name: str) -> bool:
    """A limit that is as low; None is none."""
    was, limit = getattr(old, name), getattr(new, name)
    return was is None or (limit is not None and limit <= was)


def _cores(old: Policy, new: Policy, name: str) -> bool:
    """Some of the cores that there were; none named is all."""
    was, cores = set(getattr(old, name)), set(getattr(new, name))
    return not was or (bool(cores) and cores <= was)


def _network(old: Policy, new: Policy, _name: str) -> bool:
    """Nobody is reached who was not; denials without a grant mean that everybody else is."""
    if not new.net_allow and not new.net_deny:
        return True
    if not set(old.net_deny) <= set(new.net_deny):
        return False
    everybody = not old.net_allow and bool(old.net_deny)
    if not new.net_allow:
        return everybody
    return everybody or set(new.net_allow) <= set(old.net_allow)


def _only_off(_old: Policy, new: Policy, name: str) -> bool:
    """It was on: without it there is less."""
    return not getattr(new, name)


def _only_on(_old: Policy, new: Policy, name: str) -> bool:
    """It was off: with it there is less."""
    return bool(getattr(new, name))


def _uncommitted(_old: Policy, new: Policy, name: str) -> bool:
    """Nothing reaches the real tree by itself that did not."""
    return bool(getattr(new, name) != "commit")


def _any(_old: Policy, _new: Policy, _name: str) -> bool:
    """What it says gives no rights."""
    return True


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        ["fs_writable", "net_allow_bind", "unix_allow", "extra_allow_syscalls", "allow_degraded", "disable"], _granted
    ),
    "fs_readable": _readable,
    **dict.fromkeys(["fs_denied", "net_deny_bind", "extra_deny_syscalls"], _denied),
    **dict.fromkeys(["max_memory", "max_processes", "max_open_files", "max_cpu", "max_disk", "timeout"], _at_most),
    "cpu_cores": _cores,
    "net_allow": _network,
    "net_deny": _network,
    **dict.fromkeys(["private_tmp", "net_refresh", "port_remap"], _only_off),
    "no_coredump": _only_on,
    **dict.fromkeys(["on_exit", "on_error"], _uncommitted),
    **dict.fromkeys(
        [
            "fs_storage", "num_cpus", "grace", "policy_timeout_s", "random_seed", "time_start", "deterministic_dirs",
            "no_randomize_memory", "no_huge_pages", "cwd", "clean_env", "env", "namespaces", "supervisor", "name",
        ],
        _any,
    ),
}  # fmt: skip
