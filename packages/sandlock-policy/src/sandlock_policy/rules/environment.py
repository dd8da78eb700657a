"""Environment variables: `NAME=VALUE` sets one, `NAME` passes the caller's on."""

from __future__ import annotations

from sandlock_policy.errors import RuleError

__all__ = ["parse_variable"]

_REMEDY = "write NAME=VALUE to set it, or NAME to pass the caller's on"


def parse_variable(item: object) -> tuple[str, str | None]:
    """Return name and value of `NAME=VALUE`, of `NAME` (value None) or of a pair of them."""
    if isinstance(item, str):
        name, equals, text = item.partition("=")
        value: object = text if equals else None
    elif isinstance(item, tuple) and len(item) == 2:
        name, value = item
    else:
        raise RuleError(f"{item!r} is not an environment variable", _REMEDY)
    if not isinstance(name, str) or not name or "=" in name or "\0" in name:
        raise RuleError(f"{name!r} cannot name an environment variable", _REMEDY)
    if value is None or (isinstance(value, str) and "\0" not in value):
        return name, value
    # The value itself stays out of the message: it may be a secret.
    reason = "has a NUL byte" if isinstance(value, str) else f"is a {type(value).__name__}, not a string"
    raise RuleError(f"the value of {name} {reason}", _REMEDY)
