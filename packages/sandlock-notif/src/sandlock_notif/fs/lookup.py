"""Paths of the view that are looked up for the launch, before the program runs: no race, no caller, no marks."""

from __future__ import annotations

import os
from errno import ELOOP, ENOENT
from stat import S_ISLNK
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["look_up"]

_HOPS = 40  # MAXSYMLINKS, linux/namei.h
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def look_up(root: int, mounted: Callable[[bytes], int | None], path: bytes) -> int:
    """Return an O_PATH fd, the caller's, of what an absolute path leads to; links and `..` stay inside.

    Arguments:
        root: fd of the root.
        mounted: gives a borrowed fd of what is mounted at exactly this path, without links; None where nothing is.
        path: to follow, links at its end too.

    Raises:
        OSError: it cannot be followed.

    """
    names: list[bytes] = []
    passed = [os.dup(root)]
    rest = path.split(b"/")[::-1]
    hops = _HOPS
    try:
        while rest:
            name = rest.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if names:
                    names.pop()
                    os.close(passed.pop())
                continue
            other = mounted(b"/" + b"/".join([*names, name]))
            found = os.dup(other) if other is not None else os.open(name, _STEP, dir_fd=passed[-1])
            if other is None and S_ISLNK(os.fstat(found).st_mode):
                text = os.readlink(b"", dir_fd=found)
                os.close(found)
                hops -= 1
                if not hops or not text:
                    raise OSError(ELOOP if text else ENOENT, "a link cannot be followed", path)
                if text.startswith(b"/"):
                    while names:
                        names.pop()
                        os.close(passed.pop())
                rest += text.split(b"/")[::-1]
                continue
            names.append(name)
            passed.append(found)
        return os.dup(passed[-1])
    finally:
        for fd in passed:
            os.close(fd)
