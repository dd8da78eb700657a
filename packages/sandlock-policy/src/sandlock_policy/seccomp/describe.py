"""A filter as rows of text, for documentation and --explain."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from sandlock_policy.seccomp.opcodes import (
    RET_ALLOW,
    RET_ERRNO,
    RET_KILL_PROCESS,
    RET_KILL_THREAD,
    RET_LOG,
    RET_TRACE,
    RET_TRAP,
    RET_USER_NOTIF,
)
from sandlock_policy.seccomp.rules import ANY_BIT, BETWEEN

if TYPE_CHECKING:
    from sandlock_policy.seccomp.rules import Condition, FilterSpec

__all__ = ["action_text", "condition_text", "rows"]

_ACTIONS = {
    RET_ALLOW: "allow",
    RET_KILL_PROCESS: "kill process",
    RET_KILL_THREAD: "kill thread",
    RET_LOG: "log",
    RET_TRACE: "trace",
    RET_TRAP: "SIGSYS",
    RET_USER_NOTIF: "supervisor",
}
_ACTION_MASK = 0xFFFF0000  # SECCOMP_RET_ACTION_FULL, linux/seccomp.h


def rows(spec: FilterSpec) -> list[tuple[str, str, str, str]]:
    """Return (system call, condition, action, reason) for each rule, in the order they are tried."""
    return [
        (
            rule.syscall,
            " and ".join(condition_text(condition) for condition in rule.conditions) or "always",
            action_text(rule.action),
            rule.reason,
        )
        for rule in spec.rules
    ]


def action_text(action: int) -> str:
    """Return the action in words; an errno by its name."""
    if action & _ACTION_MASK == RET_ERRNO:
        return errno.errorcode.get(action & 0xFFFF, str(action & 0xFFFF))
    return _ACTIONS.get(action & _ACTION_MASK, f"{action:#x}")


def condition_text(condition: Condition) -> str:
    """Return the condition as an expression over arg0 to arg5; a 64-bit one says so."""
    name = f"arg{condition.argument}" + (":64" if condition.wide else "")
    full = 0xFFFFFFFFFFFFFFFF if condition.wide else 0xFFFFFFFF
    if condition.kind == ANY_BIT:
        return f"{name} & {condition.mask:#x} {'==' if condition.negate else '!='} 0"
    if condition.kind == BETWEEN:
        low, high = condition.values
        text = f"{low:#x} <= {name} <= {high:#x}"
        return f"not {text}" if condition.negate else text
    if condition.mask != full:
        name = f"({name} & {condition.mask:#x})"
    if len(condition.values) == 1:
        return f"{name} {'!=' if condition.negate else '=='} {condition.values[0]:#x}"
    values = ", ".join(f"{value:#x}" for value in condition.values)
    return f"{name} {'not in' if condition.negate else 'in'} {{{values}}}"
