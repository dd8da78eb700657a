"""`inputs`: what a program that gathers reads, by name. It runs inside the sandbox.

A program in another language finds the same in the environment: SANDLOCK_INPUTS is `name=fd,name=fd`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

__all__ = ["VARIABLE", "Inputs", "inputs"]

VARIABLE = "SANDLOCK_INPUTS"


class Inputs(Mapping[str, str]):
    """The gathered inputs of this program: a mapping from name to text, each read to its end at the first look.

    Bytes that are no UTF-8 are kept as surrogates; `data` and `open` give the bytes themselves.
    """

    def __init__(self) -> None:
        self._read: dict[str, bytes] = {}
        self._taken: set[str] = set()

    def __getitem__(self, name: str) -> str:
        return self.data(name).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return iter(_fds())

    def __len__(self) -> int:
        return len(_fds())

    def data(self, name: str) -> bytes:
        """Return the whole of input `name` as bytes; KeyError when there is none."""
        if name not in self._read:
            with self.open(name) as file:
                self._read[name] = file.read()
        return self._read[name]

    def open(self, name: str) -> BinaryIO:
        """Return input `name` as a binary file, to be read once as it comes; KeyError when there is none."""
        fd = _fds()[name]
        if name in self._taken:
            raise ValueError(f"input {name!r} was opened already: a pipe is read once")
        self._taken.add(name)
        return os.fdopen(fd, "rb")


def _fds() -> dict[str, int]:
    """Return the fd of each input; those of somebody else, whose environment was passed on, are not ours."""
    pairs = [pair.partition("=") for pair in os.environ.get(VARIABLE, "").split(",") if pair]
    return {name: int(fd) for name, _, fd in pairs if fd.isdigit()}


inputs = Inputs()
