"""Where unpacked images are, and a hold on one while a run uses it. Apart from the rest: every branch asks."""

from __future__ import annotations

import fcntl
import os

__all__ = ["ROOT", "cache_folder", "hold_root", "is_image_root"]

ROOT = "root"  # the folder of an image with its file system


def cache_folder() -> str:
    """`$XDG_CACHE_HOME/sandlock/images`, or below `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # the specification: a relative value is ignored
        cache = os.path.expanduser("~/.cache")
    return os.path.join(cache, "sandlock", "images")


def is_image_root(path: str) -> bool:
    """Tell whether this real path is the file system of an unpacked image, which nothing may change."""
    folder, name = os.path.split(path)
    return name == ROOT and os.path.dirname(folder) == os.path.realpath(cache_folder())


def hold_root(root: str) -> int:
    """Return an fd that keeps the image whose root this is from being removed, or -1 where it is no image's."""
    if not is_image_root(root):
        return -1
    fd = os.open(os.path.dirname(root), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd
