"""A private temporary directory: made with a name nobody can guess, and removed whatever the program left in it."""

from __future__ import annotations

import os
from errno import ENOENT, ENOTDIR

from sandlock_runtime.errors import ConfinementError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["make_scratch", "name_scratch", "remove_scratch", "scratch_env"]

_MODE = 0o700


def name_scratch(base: str) -> str:
    """Return a path in the folder `base` that nobody can guess: 64 random bits."""
    return f"{os.path.abspath(base).rstrip('/')}/sandlock-{os.urandom(8).hex()}"


def scratch_env(env: Mapping[str, str], path: str) -> dict[str, str]:
    """Return `env` with `path` as the private temporary directory, also where a value begins with `${TMPDIR}`."""
    named = {name: path + value[9:] for name, value in env.items() if value[:9] == "${TMPDIR}"}
    return {**env, **named, "TMPDIR": path}


def make_scratch(path: str) -> None:
    """Make the directory `path` that only the caller may enter.

    Raises:
        ConfinementError: its folder does not exist or is not writable, or the path exists.

    """
    try:
        os.mkdir(path, _MODE)
    except OSError as error:
        reason = f"no private temporary directory can be made in {os.path.dirname(path)!r}: {error.strerror}"
        raise ConfinementError(
            "private-tmp", reason, error.errno or 0, "let TMPDIR name a writable directory"
        ) from error


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
        if error.errno == ENOTDIR:  # a program that may write in the folder above put something else in its place
            os.unlink(path)
            return
    else:
        return
    top = _open_folder(None, os.fsencode(path))
    # Names that the program cannot have put there: what is moved may neither meet nor be taken for something of its.
    moved = b".sandlock-removing-%s-" % os.urandom(8).hex().encode()
    try:
        folders = [b"."]
        while folders:
            folders += _empty(top, folders.pop(), moved)
    finally:
        os.close(top)
    os.rmdir(path)


def _empty(top: int, name: bytes, moved: bytes) -> list[bytes]:
    """Empty the folder `name` of `top` and remove it unless it is the top; return the folders that moved up from it."""
    found: list[bytes] = []
    inner = _open_folder(top, name)
    try:
        for entry in os.listdir(inner):
            entry_name = os.fsencode(entry)
            if name == b"." and entry_name.startswith(moved):
                continue  # moved here by us a moment ago, on the list already
            try:
                os.unlink(entry_name, dir_fd=inner)
            except IsADirectoryError:
                found.append(moved + os.urandom(8).hex().encode())
                _move_up(inner, entry_name, top, found[-1])
            except FileNotFoundError:
                continue
    finally:
        os.close(inner)
    if name != b".":
        os.rmdir(name, dir_fd=top)
    return found


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
