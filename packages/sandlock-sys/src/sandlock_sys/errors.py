"""The two exceptions of this package: a refused system call, and a /proc file that is not what it should be."""

from __future__ import annotations

import os

__all__ = ["ProcParseError", "SyscallError"]


class SyscallError(OSError):
    """A system call failed.

    It is an `OSError`, so Python picks none of its subclasses: `except OSError` catches it and `.errno` tells the
    reason.

    Attributes:
        call: name of the call as in its man page, for example "landlock_restrict_self".
        errno: the kernel's error number, positive.
        strerror: the kernel's words for that number.
        detail: what the call was about (a path, an address, a file descriptor), or "".

    """

    call: str
    errno: int
    strerror: str
    detail: str

    def __init__(self, call: str, errno: int, detail: str = "") -> None:
        super().__init__(errno, os.strerror(errno))
        self.call = call
        self.detail = detail

    def __str__(self) -> str:
        about = f" ({self.detail})" if self.detail else ""
        return f"{self.call}{about}: {self.strerror} (errno {self.errno})"

    def __reduce__(self) -> tuple[type[SyscallError], tuple[str, int, str]]:
        # OSError would pickle (errno, strerror), which does not fit this constructor.
        return type(self), (self.call, self.errno, self.detail)


class ProcParseError(ValueError):
    """A /proc file does not have the form that the kernel documents; nothing is assumed in its place.

    Attributes:
        file: name of the file, for example "maps" or "/proc/17/maps".
        line: number of the line, from 1.
        text: that line, as it was.
        reason: what is wrong with it.

    """

    def __init__(self, file: str, line: int, text: bytes, reason: str) -> None:
        super().__init__(f"{file}, line {line}: {reason}: {text!r}")
        self.file = file
        self.line = line
        self.text = text
        self.reason = reason

    def __reduce__(self) -> tuple[type[ProcParseError], tuple[str, int, bytes, str]]:
        # An exception pickles its message, which does not fit this constructor.
        return type(self), (self.file, self.line, self.text, self.reason)
