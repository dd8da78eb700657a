"""Decisions of the HTTP proxy, told as the supervisor tells of its own."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from sandlock_notif import Event
from sandlock_policy.errors import RuleError
from sandlock_policy.rules.http import check_rule

if TYPE_CHECKING:
    from sandlock_proxy import HttpEvent

__all__ = ["event_of"]

_STANDARD = {"http": 80, "https": 443}
_LONGEST_RULE = 200  # characters; a longer one is nobody's


def event_of(told: HttpEvent) -> Event:
    """Return the event for one decision: `denied` by the rules or as no proper request, else `audit`.

    What the server did (`failed`) is no denial. Text is printable ASCII already, and credentials are masked in it.
    """
    host = f"[{told.host}]" if ":" in told.host else told.host
    if told.port != _STANDARD.get(told.scheme):
        host = f"{host}:{told.port}"
    detail: dict[str, object] = {name: getattr(told, name) for name in told.__match_args__ if name != "reason"}
    detail["endpoint"] = f"{told.method} {told.scheme}://{host}{told.path}" if told.host else told.method
    if told.verdict == "denied" and not told.rule:
        flag = _flag(f"{told.method} {host}{told.path}")
        detail |= {"flag": flag} if flag else {}
    kind = "denied" if told.verdict in ("denied", "refused") else "audit"
    return Event(kind, "http", 0, 0, told.reason or told.verdict, detail)


def _flag(rule: str) -> str:
    """Return the option that allows just one request, or "" where no rule can say that."""
    try:
        if "*" in rule or len(rule) > _LONGEST_RULE:
            return ""
        # The program chose these words, and a person may paste them into a shell.
        return f"--http-allow {shlex.quote(check_rule(rule))}"
    except RuleError:
        return ""
