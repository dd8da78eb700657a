"""Writing a policy as a TOML profile that reads back as the same policy."""

from __future__ import annotations

from typing import Any

from sandlock_policy.errors import PolicyError, Problem
from sandlock_policy.fields import FIELDS, GROUPS
from sandlock_policy.model import Policy
from sandlock_policy.rules.sizes import format_size

__all__ = ["write_profile"]

# What TOML 1.0 writes short inside a basic string; every other control character is \uXXXX.
_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
_WIDTH = 100


def write_profile(policy: Policy) -> str:
    """Return `policy` as TOML: the fields that are not at their default, in the order of the reference.

    `name` and `image` belong to one sandbox and are left out. Raises PolicyError for a path whose bytes are not UTF-8,
    which no TOML document can hold.
    """
    given = policy.given()
    problems: list[Problem] = []
    lines: list[str] = []
    for group in GROUPS:
        rows = []
        for field in FIELDS:
            if not group or field.group != group or field.name not in given or field.name == "fs_mount_ro":
                continue
            rows.append(_assignment(field.path, field.kind, _plain(field.name, policy), problems))
        if group == "filesystem" and "fs_mount_ro" in given and "fs_mount" not in given:
            rows.append(_assignment("filesystem.mount", "mounts", _plain("fs_mount", policy), problems))
        if rows:
            lines += [f"[{group}]", *rows, ""]
    if problems:
        raise PolicyError(problems)
    return "\n".join(lines)


def _plain(name: str, policy: Policy) -> Any:
    """Return the field as the profile has it: mappings as the lists that the command line would take."""
    if name == "fs_mount":
        writable = [f"{virtual}:{host}" for virtual, host in policy.fs_mount.items()]
        return writable + [f"{virtual}:{host}:ro" for virtual, host in policy.fs_mount_ro.items()]
    value = getattr(policy, name)
    if isinstance(value, dict):
        return [key if item is None else f"{key}={item}" for key, item in value.items()]
    return value


def _assignment(path: str, kind: str, value: Any, problems: list[Problem]) -> str:
    key = path.partition(".")[2]
    if kind == "size":
        value = format_size(value)
    if isinstance(value, tuple | list):
        items = [_scalar(path, item, problems) for item in value]
        short = f"{key} = [{', '.join(items)}]"
        return short if len(short) <= _WIDTH else "\n".join([f"{key} = [", *[f"    {item}," for item in items], "]"])
    return f"{key} = {_scalar(path, value, problems)}"


def _scalar(path: str, value: Any, problems: list[Problem]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # TOML integers are signed and have 64 bits (TOML 1.0, "Integer"); a larger seed is written as text.
        return str(value) if value < 2**63 else f'"{value}"'
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    text = str(value)
    if any("\ud800" <= char <= "\udfff" for char in text):
        reason = "a profile is UTF-8, and this name is not"
        problems.append(Problem(path, ascii(text), reason, "give it on the command line or from Python"))
    return '"' + "".join(_ESCAPES.get(char) or _printable(char) for char in text) + '"'


def _printable(char: str) -> str:
    return f"\\u{ord(char):04X}" if char < " " or char == "\x7f" else char
