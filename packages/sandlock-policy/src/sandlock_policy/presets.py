"""Ready-made policies: `default`, `none`, `python`, `node`, `build`, `rust`, `git`, `agent`."""

from __future__ import annotations

from sandlock_policy.data.presets import PRESETS
from sandlock_policy.errors import PolicyError, Problem
from sandlock_policy.model import Policy
from sandlock_policy.validate import closest

__all__ = ["PRESET_NAMES", "preset"]

PRESET_NAMES: tuple[str, ...] = tuple(PRESETS)


def preset(name: str) -> Policy:
    """Return the ready-made policy `name`; raises PolicyError for a name that is none of `PRESET_NAMES`."""
    fields = PRESETS.get(name)
    if fields is None:
        remedy = closest(name, list(PRESETS)) or f"there are {', '.join(PRESETS)}"
        raise PolicyError([Problem("preset", name, f"there is no preset {name!r}", remedy)])
    return Policy(**fields)  # type: ignore[arg-type]  # the table holds plain data; the tests check every preset
