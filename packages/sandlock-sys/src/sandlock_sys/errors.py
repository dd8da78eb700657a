"""The one exception of this package: a refused system call, with its name and errno."""

from __future__ import annotations

import os

__all__ = ["SyscallError"]


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
