"""Answers that the proxy gives itself."""

from __future__ import annotations

import http

from sandlock_proxy.errors import Refusal
from sandlock_proxy.events import escape

__all__ = ["write_answer"]


def write_answer(refusal: Refusal, *, close: bool, head_only: bool) -> bytes:
    """Return the response that tells the client what `refusal` says; `head_only` after HEAD."""
    text = f"sandlock: {escape(refusal.reason)}\n"
    if refusal.rule:
        text += f"rule: {escape(refusal.rule)}\n"
    body = text.encode("ascii")
    try:
        phrase = http.HTTPStatus(refusal.status).phrase
    except ValueError:
        phrase = "Refused"
    lines = [
        f"HTTP/1.1 {refusal.status} {phrase}",
        "Content-Type: text/plain; charset=us-ascii",
        f"Content-Length: {len(body)}",
        "X-Sandlock: refused",
    ]
    if refusal.status == 407:
        lines.append('Proxy-Authenticate: Basic realm="sandlock"')
    if close:
        lines.append("Connection: close")
    head = "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"
    return head if head_only else head + body
