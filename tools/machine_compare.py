"""What two reports of a machine say differently: which degradations are named, what was held, what the host offers.

Numbers, times and words are left out: the claims are the states.
"""

from __future__ import annotations

from typing import Any

__all__ = ["differences"]

_CLAIMS = {  # part of a report: what names a row, and what it claims
    "protections": (("name",), ("state", "layer")),
    "trials": (("name", "namespaces"), ("state",)),
    "features": (("name",), ("state",)),
}


def differences(record: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return a line for each claim of `record` that `found` does not make, and for each that it makes beside them."""
    told = []
    for part, (names, claims) in _CLAIMS.items():
        rows = [{_words(row, names): _words(row, claims) for row in report[part]} for report in (record, found)]
        for name in dict.fromkeys([*rows[0], *rows[1]]):
            before, now = (side.get(name, "not told") for side in rows)
            if before != now:
                told.append(f"{part}: {name}: {before} in the record, {now} now")
    return told


def _words(row: dict[str, Any], keys: tuple[str, ...]) -> str:
    return " ".join(str(row[key]) for key in keys)
