"""Where named profiles are kept: `$XDG_CONFIG_HOME/sandlock/profiles/NAME.toml`.

A profile decides what a program may do, so only a file that nobody else could have written is believed: a regular
file, not reached through a link, owned by the caller or by root, and writable by its owner alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from sandlock_policy.errors import PolicyError, Problem, RuleError, SandlockError
from sandlock_policy.model import Policy
from sandlock_policy.profile.read import read_profile
from sandlock_policy.rules.scalars import parse_name
from sandlock_policy.validate import closest

__all__ = ["ProfileError", "delete_profile", "list_profiles", "load_profile", "load_profile_file", "profile_folder",
           "profile_path", "save_profile", "write_profile_file"]  # fmt: skip

_SUFFIX = ".toml"
_LARGEST = 1 << 20  # bytes; a profile is written by hand or by `learn`


class ProfileError(SandlockError):
    """A profile is missing, or its file cannot be trusted; `path` is that file."""

    def __init__(self, path: str, reason: str, remedy: str = "") -> None:
        """Say which file, what is wrong with it, and what to do."""
        super().__init__(f"{path}: {reason}" + (f"; {remedy}" if remedy else ""))
        self.path = path
        self.reason = reason
        self.remedy = remedy


def profile_folder(env: Mapping[str, str] | None = None) -> str:
    """Return the folder of the named profiles, which need not exist, from `env` or else the process's environment."""
    env = os.environ if env is None else env
    config = env.get("XDG_CONFIG_HOME", "")
    if not config.startswith("/"):  # the XDG specification says to ignore a relative one
        config = os.path.join(env.get("HOME") or os.path.expanduser("~"), ".config")
    return os.path.join(config, "sandlock", "profiles")


def list_profiles(folder: str | None = None) -> list[str]:
    """Return the names of the profiles in `folder`, sorted; a folder that does not exist has none."""
    try:
        files = os.listdir(profile_folder() if folder is None else folder)
    except FileNotFoundError:
        return []
    return sorted(file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX) and file != _SUFFIX)


def load_profile(name: str, folder: str | None = None) -> Policy:
    """Return the policy of the named profile.

    Raises PolicyError for a name that is not one path component and for a profile that is wrong, ProfileError where
    the profile does not exist or its file cannot be trusted.
    """
    folder = profile_folder() if folder is None else folder
    path = _path(name, folder)
    if not os.path.lexists(path):
        known = list_profiles(folder)
        remedy = closest(name, known) or (f"there are {', '.join(known)}" if known else f"there are none in {folder}")
        raise ProfileError(path, f"there is no profile {name!r}", remedy)
    return load_profile_file(path)


def load_profile_file(path: str) -> Policy:
    """Return the policy of the profile in the file `path`, whose relative paths start at the file's folder."""
    text = _read_trusted(path)
    try:
        return read_profile(text, os.path.dirname(os.path.abspath(path)))
    except PolicyError as error:
        error.add_note(f"in the profile {path}")
        raise


def save_profile(name: str, policy: Policy, folder: str | None = None) -> str:
    """Write `policy` as the profile `name`, in place of one that is there, and return the path of its file."""
    path = profile_path(name, folder)
    text = policy.to_toml()
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    write_profile_file(path, text)
    return path


def profile_path(name: str, folder: str | None = None) -> str:
    """Return where the profile `name` is, or would be; PolicyError for a name that is not one path component."""
    return _path(name, profile_folder() if folder is None else folder)


def write_profile_file(path: str, text: str) -> None:
    """Write `text` to the file `path`, in place of one that is there, for its owner alone."""
    # The new file is whole before it has the name, whatever happens in between.
    scratch = f"{path}.{os.getpid()}.new"
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def delete_profile(name: str, folder: str | None = None) -> None:
    """Remove the profile `name`; raises ProfileError where there is none."""
    path = _path(name, profile_folder() if folder is None else folder)
    try:
        os.unlink(path)
    except FileNotFoundError:
        raise ProfileError(path, f"there is no profile {name!r}") from None


def _path(name: str, folder: str) -> str:
    try:
        return os.path.join(folder, parse_name(name) + _SUFFIX)
    except RuleError as fault:
        raise PolicyError([Problem("profile", str(name), str(fault), fault.remedy, fault.position)]) from None


def _read_trusted(path: str) -> str:
    # O_NONBLOCK: a FIFO must be refused below, not waited for here.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ProfileError(path, "there is no such profile") from None
    except OSError as fault:
        link = os.path.islink(path)
        reason = "is a symbolic link" if link else f"cannot be read: {fault.strerror}"
        raise ProfileError(path, reason, "name the file that it leads to" if link else "") from fault
    try:
        _check_trust(path, os.fstat(fd))
        data = _read_bounded(fd)
    finally:
        os.close(fd)
    if len(data) > _LARGEST:
        raise ProfileError(path, f"is larger than {_LARGEST} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise ProfileError(path, f"is not UTF-8 at byte {fault.start}") from None


def _check_trust(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ProfileError(path, "is not a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise ProfileError(path, f"belongs to user {status.st_uid}", "only your own profiles and root's are used")
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise ProfileError(path, f"can be changed by others (mode {mode:04o})", f"chmod go-w {path}")


def _read_bounded(fd: int) -> bytes:
    """Return what the file holds, or one byte more than a profile may have."""
    data = b""
    while len(data) <= _LARGEST and (piece := os.read(fd, _LARGEST + 1 - len(data))):
        data += piece
    return data
