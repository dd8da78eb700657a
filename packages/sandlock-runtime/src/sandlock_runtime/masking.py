"""Text without the secrets in it, for what is written down about a run."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandlock_policy import Policy

__all__ = ["MASK", "Masker", "is_secret_name", "without_values"]

MASK = "***"
_MOST = 64 << 10  # bytes of a secret's file; a key is smaller
_SHORTEST = 4  # characters: masking a shorter one would only garble the text, and tell that it is short
_WORDS = (
    "password passwd passphrase secret token api[_-]?key access[_-]?key private[_-]?key credential authorization cookie"
)
_SECRET_NAME = f"(?:{'|'.join(_WORDS.split())})"
# Every repetition is bounded or ends at what it cannot match, so a hostile text costs no more than its length.
_USER = re.compile(r"(?<=://)[^/\s@]{1,1024}(?=@)")
_PAIR = re.compile(
    _SECRET_NAME
    + r"([\w-]{0,32}[\"']?[ \t]{0,4}[=:][ \t]{0,4}[\"']?)((?:bearer|basic|token|digest)[ \t]+)?[^\s&;,\"']+",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"((?<![\w-])--?[\w-]{0,64}" + _SECRET_NAME + r"[\w-]{0,32}[ \t]{1,4}[\"']?)[^\s&;,\"'-][^\s&;,\"']*", re.IGNORECASE
)
_FLAG = re.compile(r"--?[\w-]{0,64}" + _SECRET_NAME + r"[\w-]{0,64}", re.IGNORECASE)
_NAMED = re.compile(_SECRET_NAME, re.IGNORECASE)


class Masker:
    """Puts `***` in the place of secrets.

    Masked are: the credentials of the policy by value, where they can be read twice (variables and files); values of
    environment variables whose name says that they are secret; users and passwords in URLs; what follows a name like
    `password`, `token` or `authorization` behind `=` or `:`, or as the word behind such an option. A secret that looks
    like any other word is not known to be one.

    Arguments:
        policy: whose credentials and variables are meant.
        environment: of the caller.

    """

    def __init__(self, policy: Policy, environment: Mapping[str, str]) -> None:
        values = [_value(source, environment) for source in policy.credentials.values()]
        for name, value in policy.env.items():
            if is_secret_name(name):
                values.append(value if value is not None else environment.get(name, ""))
        # The longest first: one may be a part of another.
        self._values = sorted({value for value in values if len(value) >= _SHORTEST}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return `text` without secrets."""
        for value in self._values:
            text = text.replace(value, MASK)
        text = _USER.sub(MASK, text)
        text = _OPTION.sub(lambda found: found[1] + MASK, text)
        return _PAIR.sub(lambda found: found[0][: found.end(2 if found[2] else 1) - found.start()] + MASK, text)

    def words(self, words: Sequence[str]) -> list[str]:
        """Return the words of a command without secrets."""
        masked = [self.text(word) for word in words]
        for index, word in enumerate(words[:-1]):
            if _FLAG.fullmatch(word):
                masked[index + 1] = MASK
        return masked

    def value(self, value: object) -> object:
        """Return `value` as JSON can hold it, without secrets; bytes as text that has them losslessly."""
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, bytes):
            return self.text(os.fsdecode(value))
        if isinstance(value, (list, tuple)):
            if all(isinstance(item, str) for item in value):
                return self.words(value)
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {str(key): self.value(item) for key, item in value.items()}
        return self.text(str(value))


def is_secret_name(name: str) -> bool:
    """Tell whether a variable's name says that its value is a secret."""
    return _NAMED.search(name) is not None


def without_values(policy: Policy) -> Policy:
    """Return `policy` without the values of environment variables: their names stay, as variables to pass on."""
    return policy.replace(env=dict.fromkeys(policy.env)) if policy.env else policy


def _value(source: str, environment: Mapping[str, str]) -> str:
    """Return the secret that `source` names, or "" where it cannot be read, or not without taking it away (a pipe)."""
    kind, _, place = source.partition(":")
    if kind == "env":
        return environment.get(place, "")
    try:
        if kind == "fd":
            return os.fsdecode(os.pread(int(place), _MOST, 0)).strip()
        with open(os.path.expanduser(place), "rb") as file:
            return os.fsdecode(file.read(_MOST)).strip()
    except OSError:  # the launch tells what is wrong with it
        return ""
