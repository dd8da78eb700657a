"""Virtual mounts: `V:H` shows host path H at virtual path V; `V:H:ro` read-only."""

from __future__ import annotations

import os
from collections.abc import Iterable

from sandlock_policy.errors import RuleError
from sandlock_policy.paths import normalise, parse_path

__all__ = ["parse_mount", "parse_mount_ro", "split_mounts"]

_REMEDY = "write V:H or V:H:ro, such as /data:/srv/data:ro"


def parse_mount(item: object) -> tuple[str, str]:
    """Return (virtual, host) of a writable mount, from `V:H` or a pair."""
    virtual, host, read_only = _parse(item)
    if read_only:
        raise RuleError(f"{item!r} is read-only", "give it to fs_mount_ro")
    return virtual, host


def parse_mount_ro(item: object) -> tuple[str, str]:
    """Return (virtual, host) of a read-only mount, from `V:H`, `V:H:ro` or a pair."""
    virtual, host, _ = _parse(item)
    return virtual, host


def split_mounts(items: Iterable[object]) -> tuple[list[object], list[object]]:
    """Split texts into those for `fs_mount` and those, ending in `:ro`, for `fs_mount_ro`; faults stay in the first."""
    writable: list[object] = []
    read_only: list[object] = []
    for item in items:
        (read_only if isinstance(item, str) and item.endswith(":ro") else writable).append(item)
    return writable, read_only


def _parse(item: object) -> tuple[str, str, bool]:
    if isinstance(item, tuple) and len(item) == 2:
        return _virtual(item[0]), parse_path(item[1]), False
    if not isinstance(item, str):
        raise RuleError(f"{item!r} is not a mount", _REMEDY)
    parts = item.split(":")
    if len(parts) == 3 and parts[2] != "ro":
        raise RuleError(f"{parts[2]!r} is not an option of a mount", _REMEDY, len(item) - len(parts[2]))
    if len(parts) not in (2, 3):
        raise RuleError(f"{item!r} is not a mount", _REMEDY)
    return _virtual(parts[0]), parse_path(parts[1]), len(parts) == 3


def _virtual(value: object) -> str:
    path = parse_path(value)
    if path[0] != "/" or ".." in path.split("/") or "${" in path:
        raise RuleError(f"{os.fspath(path)!r} is not an absolute virtual path", _REMEDY, 0)
    return normalise(path)
