"""Booleans, counts, ids, seeds, percentages, names and the closed choices."""

from __future__ import annotations

from sandlock_policy.errors import RuleError

__all__ = [
    "parse_bool",
    "parse_branch_action",
    "parse_count",
    "parse_id",
    "parse_integer",
    "parse_name",
    "parse_namespaces",
    "parse_percent",
    "parse_seed",
]

_BRANCH_ACTIONS = ("commit", "abort", "keep", "defer")
_NAMESPACES = ("auto", "off", "require")
_NAME_LENGTH = 64  # HOST_NAME_MAX, linux/utsname.h: a name is a virtual host name too


def parse_bool(value: object) -> bool:
    """Return `value`, which is True or False and nothing that merely counts as such."""
    if value is True or value is False:
        return value
    raise RuleError(f"{value!r} is neither true nor false")


def parse_integer(value: object, what: str, low: int, high: int) -> int:
    """Return the integer `value`, or the one that decimal digits spell, between `low` and `high` inclusive."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:40])  # digits beyond any range we have would only make int() slow
    if not isinstance(value, int) or isinstance(value, bool):
        raise RuleError(f"{value!r} is not {what}", f"write an integer from {low} to {high}")
    if not low <= value <= high:
        raise RuleError(f"{value} is not {what} from {low} to {high}")
    return value


def parse_count(value: object) -> int:
    """Return a count of things, at least 1."""
    return parse_integer(value, "a count", 1, 2**31 - 1)


def parse_id(value: object) -> int:
    """Return a user or group id; the highest one means `none` to the kernel and is refused."""
    return parse_integer(value, "an id", 0, 2**32 - 2)


def parse_seed(value: object) -> int:
    """Return a seed of 64 bits."""
    return parse_integer(value, "a seed", 0, 2**64 - 1)


def parse_percent(value: object) -> int:
    """Return per cent of one core; more than 100 means more than one core."""
    if isinstance(value, str):
        value = value.removesuffix("%")
    return parse_integer(value, "a percentage", 1, 1_000_000)


def parse_name(value: object) -> str:
    """Return a name that is a host name label: letters, digits, `-`, `_` and `.`, no mark in front."""
    if not isinstance(value, str) or not value:
        raise RuleError(f"{value!r} is not a name", "write letters, digits, '-', '_' and '.'")
    for position, char in enumerate(value):
        if not (char.isascii() and char.isalnum()) and (position == 0 or char not in "-_."):
            raise RuleError(f"{char!r} cannot be here in a name", "write letters, digits, '-', '_' and '.'", position)
    if len(value) > _NAME_LENGTH:
        raise RuleError(f"the name has {len(value)} characters; {_NAME_LENGTH} is the most", position=_NAME_LENGTH)
    return value


def parse_branch_action(value: object) -> str:
    """Return what becomes of a branch: `commit`, `abort`, `keep` or `defer`."""
    return _choice(value, _BRANCH_ACTIONS)


def parse_namespaces(value: object) -> str:
    """Return whether namespaces may be used: `auto`, `off` or `require`."""
    return _choice(value, _NAMESPACES)


def _choice(value: object, known: tuple[str, ...]) -> str:
    # An enum of the branch's or of the caller's own, whose values are these words, is as good as the word.
    text = getattr(value, "value", value)
    if isinstance(text, str) and text.lower() in known:
        return text.lower()
    raise RuleError(f"{value!r} is none of {', '.join(known)}")
