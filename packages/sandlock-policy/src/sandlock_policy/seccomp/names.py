"""Check the names that a policy gives for system calls and groups. Loaded only when a policy names some."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import sandlock_arch
from sandlock_policy.data.syscall_groups import GROUPS
from sandlock_policy.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["known_syscalls", "problems_of"]

_DENY_FIELD = "program.extra_deny_syscalls"
_ALLOW_FIELD = "program.extra_allow_syscalls"


def known_syscalls() -> frozenset[str]:
    """Return every name in the table of any described architecture: a profile may be written for another one."""
    return frozenset(name for arch in sandlock_arch.names() for name in sandlock_arch.get(arch).syscalls)


def problems_of(extra_deny: Sequence[str], extra_allow: Sequence[str]) -> tuple[Problem, ...]:
    """Return the faults of both lists: unknown names, and names that would open the sandbox."""
    known = known_syscalls()
    problems: list[Problem] = []
    for field, names in ((_DENY_FIELD, extra_deny), (_ALLOW_FIELD, extra_allow)):
        for index, name in enumerate(names):
            path = f"{field}[{index}]"
            if name not in known and name not in GROUPS:
                problems.append(_unknown(path, name, known))
            elif field == _ALLOW_FIELD:
                problems += _not_allowable(path, name)
    return tuple(problems)


def _unknown(path: str, name: str, known: frozenset[str]) -> Problem:
    close = get_close_matches(name, [*GROUPS, *known], n=1)
    remedy = f"did you mean {close[0]!r}?" if close else f"groups are {', '.join(GROUPS)}"
    return Problem(path, name, f"{name!r} is no system call and no group", remedy)


def _not_allowable(path: str, name: str) -> list[Problem]:
    """Return a problem if lifting `name` would open the sandbox."""
    if name in GROUPS:
        groups = [name]
    else:
        groups = [
            group_name
            for group_name, group in GROUPS.items()
            if name in group.calls or any(rule.syscall == name for rule in group.rules)
        ]
    if name == "metadata" or name in GROUPS["metadata"].calls:
        remedy = "put 'fs_metadata' into disable"
        return [Problem(path, name, f"{name!r} changes files that the policy does not grant for writing", remedy)]
    if name in {"socket", "socketpair", "listen"}:
        remedy = "say what the program may reach with net_allow, or put 'unix_sockets' into disable"
        return [Problem(path, name, f"{name!r} is decided by the network rules", remedy)]
    for group_name in groups:
        if not GROUPS[group_name].allowable:
            allowable = ", ".join(other for other, group in GROUPS.items() if group.allowable)
            reason = f"{name!r} would open the sandbox: {GROUPS[group_name].reason}"
            return [Problem(path, name, reason, f"what may be lifted: {allowable}")]
    return []
