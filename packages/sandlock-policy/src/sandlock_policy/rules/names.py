"""Names of protections and of system calls."""

from __future__ import annotations

from sandlock_policy.data.protections import ALIASES, PROTECTIONS
from sandlock_policy.errors import RuleError
from sandlock_policy.validate import closest

__all__ = ["parse_disabled", "parse_protection", "parse_syscall"]


def parse_protection(value: object) -> str:
    """Return the name of a protection; `ioctl_dev` is `fs_ioctl_dev`."""
    if isinstance(value, str):
        name = ALIASES.get(value, value)
        if name in PROTECTIONS:
            return name
        remedy = closest(value, [*PROTECTIONS, *ALIASES]) or f"there are {', '.join(PROTECTIONS)}"
        raise RuleError(f"{value!r} is not a protection", remedy)
    raise RuleError(f"{value!r} is not the name of a protection")


def parse_disabled(value: object) -> str:
    """Return the name of a protection that can be switched off."""
    name = parse_protection(value)
    if not PROTECTIONS[name][1]:
        raise RuleError(f"{name} cannot be switched off", "grant what the program needs instead")
    return name


def parse_syscall(value: object) -> str:
    """Return the name of a system call or of a group; whether this architecture has it is seen at launch."""
    if isinstance(value, str) and value.isascii() and value.isidentifier():
        return value
    raise RuleError(f"{value!r} is not the name of a system call or of a group", "write a name such as 'ptrace'")
