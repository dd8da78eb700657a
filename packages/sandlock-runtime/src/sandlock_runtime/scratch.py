"""A private temporary directory: made with a name nobody can guess, and removed whatever the program left in it."""

from __future__ import annotations

import os
from errno import ENOENT

__all__ = ["make_scratch", "remove_scratch"]

_MODE = 0o700


def make_scratch(base: str) -> str:
    """Make a directory below `base` that only the caller may enter, and return its path.

    Raises:
        OSError: `base` does not exist or is not writable.

    """
    while True:
        path = f"{base}/sandlock-{os.urandom(8).hex()}"
        try:
            os.mkdir(path, _MODE)
        except FileExistsError:  # 64 random bits: somebody is guessing, or the generator repeats
            continue
        return path


def remove_scratch(path: str) -> None:
    """Remove the directory and everything in it; entries that vanish meanwhile are fine.

    What the program left is hostile: trees of any depth, folders without permissions, links to anywhere. Nothing is
    followed, and no depth matters: a folder is moved to the top, where a list of names does for a stack of open fds.
    """
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno == ENOENT:
            return
    else:
        return
    top = _open_folder(None, os.fsencode(path))
    try:
        folders = [b"."]
        counter = 0
        while folders:
            name = folders.pop()
            inner = _open_folder(top, name)
            try:
                for entry in os.listdir(inner):
                    entry_name = os.fsencode(entry)
                    if name == b"." and entry_name.startswith(b".sandlock-removing-"):
                        continue  # moved here by us a moment ago, on the list already
                    try:
                        os.unlink(entry_name, dir_fd=inner)
                    except IsADirectoryError:
                        counter += 1
                        moved = b".sandlock-removing-%d-%d" % (os.getpid(), counter)
                        _move_up(inner, entry_name, top, moved)
                        folders.append(moved)
            finally:
                os.close(inner)
            if name != b".":
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _open_folder(top: int | None, name: bytes) -> int:
    # Safety: O_PATH names the object without needing a permission on it; the mode is then set through that very fd,
    # so a link put in its place can neither be followed nor have its target's mode changed.
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        os.chmod(f"/proc/self/fd/{fd}", _MODE)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _move_up(inner: int, name: bytes, top: int, moved: bytes) -> None:
    # Moving a folder to another parent changes its "..", for which the kernel wants write permission on it.
    os.close(_open_folder(inner, name))
    os.rename(name, moved, src_dir_fd=inner, dst_dir_fd=top)
