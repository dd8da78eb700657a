"""One record for each decision about a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["HttpEvent", "Outcome", "escape"]

# allowed: forwarded. denied: by a rule, or because none allows it. refused: not a request that rules can be asked
# about. failed: allowed, and the server could not be reached or answered nonsense.
Outcome = Literal["allowed", "denied", "refused", "failed"]

_LONGEST = 2048


@dataclass(frozen=True, slots=True)
class HttpEvent:
    """What was asked, and what became of it.

    Text is printable ASCII, whatever the client sent: other characters are written as escapes, long text is cut.
    `path` has no query, which is where programs put what nobody should log. `status` is 0 for what was forwarded.
    """

    verdict: Outcome
    method: str
    scheme: str
    host: str
    port: int
    path: str
    rule: str
    status: int = 0
    reason: str = ""


def escape(text: str) -> str:
    """Return `text` in printable ASCII, as Python would write it, and not longer than 2,048 characters."""
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if " " <= one <= "~" else ascii(one)[1:-1] for one in text)
