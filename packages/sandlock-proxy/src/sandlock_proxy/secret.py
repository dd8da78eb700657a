"""One secret: where it is read from, and what keeps it out of logs, exceptions and files."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final, NoReturn
from urllib.parse import quote, quote_plus

from sandlock_proxy.errors import CredentialError

__all__ = ["Secret", "read_secret"]

_LONGEST: Final = 64 * 1024
_SHORTEST_MASKED: Final = 4


class Secret:
    """A value that shows itself to `reveal` only: not in repr, format or comparison, and it cannot be pickled."""

    __slots__ = ("__value", "name")

    def __init__(self, name: str, value: str) -> None:
        """Take `value`; raises CredentialError if it is empty or cannot stand in a header."""
        if not value:
            raise CredentialError(f"the credential {name} is empty")
        if not all(" " <= char <= "~" for char in value) or value != value.strip():
            raise CredentialError(f"the credential {name} has characters that a header cannot have")
        self.name = name
        self.__value = value

    def reveal(self) -> str:
        """Return the value; only what writes the request to the server may ask."""
        return self.__value

    def spellings(self) -> tuple[bytes, ...]:
        """Return how the value may come back in an answer, longest first; none if it is too short to be found."""
        if len(self.__value) < _SHORTEST_MASKED:
            return ()
        raw = self.__value
        found = {raw, quote(raw, safe=""), quote(raw), quote_plus(raw), base64.b64encode(raw.encode()).decode()}
        return tuple(sorted((one.encode() for one in found), key=len, reverse=True))

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce__(self) -> NoReturn:
        """Refuse to be written down: a checkpoint or a message to another process must not hold it."""
        raise TypeError(f"the credential {self.name} cannot be pickled or copied")


def read_secret(name: str, source: str, environment: Mapping[str, str]) -> Secret:
    """Return the secret that `source` (`env:V`, `file:P`, `fd:N`) holds, without the line end behind it.

    A descriptor is read to its end and stays open, it is the caller's. Raises CredentialError, with the name and the
    source in it and nothing of what was read.
    """
    kind, _, place = source.partition(":")
    try:
        if kind == "env":
            if place not in environment:
                raise CredentialError(f"the credential {name} is to come from the variable {place}, which is not set")
            data = environment[place].encode("utf-8", "surrogateescape")
        elif kind == "file":
            with open(place, "rb") as file:
                data = file.read(_LONGEST + 1)
        elif kind == "fd":
            with open(int(place), "rb", closefd=False) as file:
                data = file.read(_LONGEST + 1)
        else:
            raise CredentialError(f"the source of the credential {name} is neither env:, file: nor fd:")
    except OSError as fault:
        raise CredentialError(f"the credential {name} cannot be read from {source}: {fault.strerror}") from None
    if len(data) > _LONGEST:
        raise CredentialError(f"the credential {name} is longer than {_LONGEST} bytes")
    text = data.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
    return Secret(name, text)
