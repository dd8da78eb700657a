"""What a program changed below a folder, as lines for people and as values for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandlock_cli.failure import printable
from sandlock_cow import renames

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandlock_cow import Change, Entry

__all__ = ["change_lines", "change_records"]

_TYPES = {"file": "100", "symlink": "120", "directory": "040", "fifo": "010", "socket": "140", "device": "020"}


def change_lines(changes: Sequence[Change]) -> list[str]:
    """Return one line for each change: A, M or D, the mode as `git` writes it, the path; R for a file that moved.

    What runs later outside is marked, since that is how a program gets out by waiting.
    """
    pairs = dict(renames(changes))
    moved = {change.path: change for change in changes if change.path in pairs.values()}
    lines = []
    for change in changes:
        if change.path in pairs:
            to = moved[pairs[change.path]]
            line = f"R {_modes(change.before, to.after)} {_path(change.path)} -> {_path(to.path)}"
            lines.append(line + _mark(to) + (_mark(change) if not to.late else ""))
        elif change.path not in moved:
            lines.append(f"{change.kind} {_modes(change.before, change.after)} {_path(change.path)}{_mark(change)}")
    return lines


def change_records(changes: Iterable[Change]) -> dict[str, Any]:
    """Return `changes` and `renames` for JSON; names that are not UTF-8 have lone surrogates, so nothing is lost."""
    changes = tuple(changes)
    rows = [
        {
            "kind": change.kind,
            "path": change.path,
            "late": change.late,
            "before": _record(change.before),
            "after": _record(change.after),
        }
        for change in changes
    ]
    return {"changes": rows, "renames": [list(pair) for pair in renames(changes)]}


def _record(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    record: dict[str, Any] = {"type": entry.kind.value, "mode": f"{entry.mode:04o}"}
    if entry.kind.value == "file":
        record |= {"size": entry.size, "sha256": entry.digest}
    elif entry.kind.value == "symlink":
        record["target"] = entry.target
    return record


def _modes(before: Entry | None, after: Entry | None) -> str:
    modes = [f"{_TYPES[entry.kind.value]}{entry.mode & 0o7777:03o}" for entry in (before, after) if entry is not None]
    return modes[0] if len(set(modes)) == 1 else "->".join(modes)


def _path(path: str) -> str:
    """Return a path for a line: in quotes where it could be taken for something else."""
    plain = path.isprintable() and not set(path) & set(" \t\"'\\>()")
    return path if plain else f"'{printable(path.replace(chr(92), chr(92) * 2))}'"


def _mark(change: Change) -> str:
    return f" (runs later: {change.late})" if change.late else ""
