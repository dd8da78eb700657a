"""Reading a TOML profile into a policy; what it does not know is an error."""

from __future__ import annotations

import tomllib
from typing import Any

from sandlock_policy.errors import PolicyError, Problem
from sandlock_policy.fields import FIELDS, Field
from sandlock_policy.model import Policy
from sandlock_policy.paths import anchor
from sandlock_policy.rules.mounts import split_mounts
from sandlock_policy.validate import closest

__all__ = ["read_profile"]

_FIELD_BY_KEY: dict[str, Field] = {}
for _field in FIELDS:
    if _field.key:
        # Two fields share filesystem.mount; the first of them reads the key.
        _FIELD_BY_KEY.setdefault(_field.key, _field)
_TABLES: tuple[str, ...] = tuple(dict.fromkeys(key.partition(".")[0] for key in _FIELD_BY_KEY))


def read_profile(text: str, folder: str | None = None) -> Policy:
    """Return the policy that the TOML document `text` describes.

    Relative paths start at `folder`, where the profile is; without one they start at the caller's directory when the
    policy is resolved. Raises PolicyError with every fault: a document that is not TOML, tables and keys that do not
    exist (with the likely one), values that do not fit.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise PolicyError([Problem("", "", f"the profile is not TOML: {fault}")]) from None
    problems: list[Problem] = []
    fields: dict[str, Any] = {}
    for table, entries in document.items():
        if table not in _TABLES:
            problems.append(_unknown_table(table))
        elif not isinstance(entries, dict):
            problems.append(Problem(table, repr(entries), f"{table} is a table", f"write [{table}]"))
        else:
            for key, value in entries.items():
                _read_key(f"{table}.{key}", value, fields, problems)
    if folder is not None:
        fields = {name: _anchored(name, value, folder) for name, value in fields.items()}
    try:
        policy = Policy(**fields)
    except PolicyError as fault:
        problems += fault.problems
    if problems:
        raise PolicyError(problems)
    return policy


def _unknown_table(table: str) -> Problem:
    moved = [key for key in _FIELD_BY_KEY if key.partition(".")[2] == table]
    remedy = f"write {moved[0]}" if moved else closest(table, list(_TABLES))
    return Problem(table, "", "a profile has no such table", remedy or f"there are {', '.join(_TABLES)}")


def _read_key(path: str, value: object, fields: dict[str, Any], problems: list[Problem]) -> None:
    field = _FIELD_BY_KEY.get(path)
    if field is None:
        problems.append(Problem(path, repr(value), "a profile has no such key", _suggest(path)))
    elif path == "filesystem.mount" and isinstance(value, list):
        fields["fs_mount"], fields["fs_mount_ro"] = split_mounts(value)
    else:
        fields[field.name] = value


def _suggest(path: str) -> str:
    """Return the key that was probably meant: the Python name, the same word elsewhere, or one spelled alike."""
    table, _, word = path.partition(".")
    for key, field in _FIELD_BY_KEY.items():
        if word == field.name or (key.endswith(f".{word}") and key != path):
            return f"write {key}"
    return closest(path, list(_FIELD_BY_KEY)) or closest(
        word, [key.partition(".")[2] for key in _FIELD_BY_KEY if key.startswith(f"{table}.")]
    )


def _anchored(name: str, value: Any, folder: str) -> Any:
    """Return `value` with its relative paths starting at `folder`."""
    kind = next(field.kind for field in FIELDS if field.name == name)
    if kind == "path" and isinstance(value, str) and value:
        return anchor(value, folder)
    if kind == "paths" and isinstance(value, list):
        return [anchor(item, folder) if isinstance(item, str) and item else item for item in value]
    if kind in ("mounts", "mounts_ro") and isinstance(value, list):
        return [_anchored_mount(item, folder) for item in value]
    return value


def _anchored_mount(item: Any, folder: str) -> Any:
    virtual, colon, host = item.partition(":") if isinstance(item, str) else ("", "", "")
    return f"{virtual}:{anchor(host, folder)}" if colon and host else item
