"""Paths inside a branch: components in bytes, and nothing that could point elsewhere."""

from __future__ import annotations

import errno
import os

__all__ = ["Parts", "inside", "join", "split"]

Parts = tuple[bytes, ...]

_NAME_MAX = 255  # linux/limits.h


def split(path: bytes) -> Parts:
    """The components of `path`; b"" is the root, ().

    Raises:
        ValueError: an empty component (a slash at an end, two in a row), `.`, `..` or a NUL byte.
        OSError: ENAMETOOLONG for a component above NAME_MAX.

    """
    if not path:
        return ()
    parts = tuple(path.split(b"/"))
    for part in parts:
        if part in (b"", b".", b"..") or b"\0" in part:
            raise ValueError(f"not a path of plain components: {path!r}")
        if len(part) > _NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return parts


def join(parts: Parts) -> bytes:
    """The path of the components."""
    return b"/".join(parts)


def inside(real: bytes, roots: tuple[bytes, ...]) -> bytes | None:
    """The path below the first of `roots` that holds the absolute `real`, or None."""
    for root in roots:
        if real == root:
            return b""
        if real.startswith(root.rstrip(b"/") + b"/"):
            return real[len(root.rstrip(b"/")) + 1 :]
    return None
