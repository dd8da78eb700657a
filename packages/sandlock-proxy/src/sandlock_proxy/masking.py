"""Answers of a server, with the secrets it was sent masked (NET-21).

A server may show a request to whoever sent it, in a redirect, an error page or an echo; what the program must not have
would come in that way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sandlock_proxy.secret import Secret

__all__ = ["Mask"]


class Mask:
    """Replaces the secrets in headers and in a body that comes in pieces, keeping every length."""

    def __init__(self, secrets: Iterable[Secret], values: Iterable[bytes] = ()) -> None:
        """Look for every spelling of `secrets`, and for `values`, which were made of them."""
        found = {one for secret in secrets for one in secret.spellings()}
        found |= {value.rpartition(b" ")[2] for value in values if len(value) >= 8}
        self._spellings = sorted(found, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, self._spellings)) or b"(?!)")
        self._held = b""

    def whole(self, data: bytes) -> bytes:
        """Return `data`, complete in itself, masked."""
        return self._pattern.sub(lambda match: b"*" * len(match[0]), data)

    def feed(self, data: bytes) -> bytes:
        """Return what can be passed on of a body after `data` arrived; a possible beginning of a secret is held."""
        text = self.whole(self._held + data)
        keep = self._beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> bytes:
        """Return what is held at the end of the body: it was no secret after all."""
        held, self._held = self._held, b""
        return held

    def _beginning(self, text: bytes) -> int:
        """Return how many bytes at the end of `text` a secret could begin with."""
        longest = 0
        for spelling in self._spellings:
            for size in range(min(len(spelling) - 1, len(text)), longest, -1):
                if text.endswith(spelling[:size]):
                    longest = size
                    break
        return longest
