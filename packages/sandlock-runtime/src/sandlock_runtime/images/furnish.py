"""What a root needs beside the image's layers: places that the run's own /proc, devices and files are mounted on."""

from __future__ import annotations

import os
from contextlib import suppress
from stat import S_ISDIR

from sandlock_runtime.images.errors import OciImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_runtime.images.unpack import Tree

__all__ = ["furnish"]

_FOLDERS = {b"dev": 0o755, b"etc": 0o755, b"proc": 0o755, b"root": 0o700, b"run": 0o755, b"sys": 0o755, b"tmp": 0o1777}
_DEVICES = (b"null", b"zero", b"full", b"random", b"urandom", b"tty")
_LINKS = {b"fd": b"/proc/self/fd", b"stdin": b"/proc/self/fd/0", b"stdout": b"/proc/self/fd/1",
          b"stderr": b"/proc/self/fd/2"}  # fmt: skip
_FILES = (b"hostname", b"hosts", b"resolv.conf")  # in /etc
_MOUNTED = (b"dev", b"proc", b"sys")


def furnish(tree: Tree, cwd: str) -> None:
    """Make what is missing; OciImageError where a place that is mounted on leads elsewhere."""
    for name, mode in _FOLDERS.items():
        _make_folder(tree.fd, name, mode)
    for name in _MOUNTED:
        if not S_ISDIR(os.stat(name, dir_fd=tree.fd, follow_symlinks=False).st_mode):
            raise OciImageError(f"its /{os.fsdecode(name)} is no folder", "the run's own is to be mounted there")
    devices = tree.find([b"dev"])
    try:
        for name in _DEVICES:
            _make_file(devices, name)
        for name, target in _LINKS.items():
            with suppress(FileExistsError):
                os.symlink(target, name, dir_fd=devices)
        _make_folder(devices, b"shm", 0o1777)
    finally:
        os.close(devices)
    settings = tree.find([b"etc"])
    try:
        for name in _FILES:
            _make_file(settings, name)
    finally:
        os.close(settings)
    tree.folder([part for part in os.fsencode(cwd).split(b"/") if part not in (b"", b".", b"..")])
    tree.close()


def _make_folder(above: int, name: bytes, mode: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=above)
    except FileExistsError:
        return  # what the image has is taken
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        os.fchmod(fd, mode)  # whatever the caller's umask
    finally:
        os.close(fd)


def _make_file(above: int, name: bytes) -> None:
    with suppress(FileExistsError):
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=above))
