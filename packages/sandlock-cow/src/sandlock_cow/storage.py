"""Where branches live: one private folder each, locked while it is open, never inside the tree that it covers."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from typing import TYPE_CHECKING

from sandlock_cow import metadata, overlay
from sandlock_cow.errors import BranchBusyError, BranchStorageError
from sandlock_cow.removing import remove_tree

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Store", "default_storage"]

FORMAT = 1
META = "branch.json"
KEPT = "kept"
_REALTIME_COARSE = 5  # CLOCK_REALTIME_COARSE, linux/time.h, 2.6.32: the clock of change times
NEW = ".new-"
GONE = ".gone-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def default_storage() -> str:
    """`$XDG_STATE_HOME/sandlock/branches`, or below `~/.local/state`.

    Raises:
        BranchStorageError: nobody says where the home is. Safety: `~` would be a folder of the current directory, where
            a program may have left what looks like branches.

    """
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the specification: a relative value is ignored
        state = os.path.expanduser("~/.local/state")
        if not os.path.isabs(state):
            raise BranchStorageError(state, "there is no home directory: set HOME or XDG_STATE_HOME")
    return os.path.join(state, "sandlock", "branches")


class Store:
    """The folder of one branch: fds of it, its upper, work and lower directories, and what its meta file says.

    Owns the fds: `folder` (holds the lock), `upper_fd`, `work_fd`, `lower_fd`. Paths are real ones, as str.
    """

    def __init__(self, path: str, folder: int, meta: dict[str, Any], fds: tuple[int, int, int]) -> None:
        self.path = path
        self.folder = folder
        self.meta = meta
        self.lower_fd, self.upper_fd, self.work_fd = fds
        self.lower: str = meta["lower"]
        self.backend: str = meta["backend"]
        self.device_whiteouts: bool = meta["device_whiteouts"]
        self.started_ns: int = meta["started_ns"]
        self.upper = os.path.join(path, "upper")
        self.closed = False

    @property
    def roots(self) -> tuple[bytes, ...]:
        """The real paths that show the branch's tree."""
        return os.fsencode(self.upper), os.fsencode(self.lower)

    @classmethod
    def create(cls, lower: str | bytes, storage: str | bytes | None, backend: str) -> Store:
        """Make and lock the folder of a new branch; the arguments and errors are `Branch`'s."""
        if backend not in ("served", "overlay"):
            raise ValueError(f"no such backend: {backend!r} (served, overlay)")
        lower_path = os.path.realpath(os.fsdecode(lower))
        lower_fd = _open_lower(lower_path)
        try:
            place = _prepare_storage(os.fsdecode(storage) if storage is not None else default_storage())
            home = os.open(place, _FOLDER)
            try:
                _refuse_nesting(lower_fd, lower_path, home, place)
                sweep(home)
                return cls._make(place, home, lower_path, lower_fd, backend)
            finally:
                os.close(home)
        except BaseException:
            os.close(lower_fd)
            raise

    @classmethod
    def _make(cls, place: str, home: int, lower_path: str, lower_fd: int, backend: str) -> Store:
        """Fill a folder under a temporary name, so that a half-made branch is never taken for one."""
        token = os.urandom(8).hex()
        name = f"{int(time.time()):x}-{token}"
        os.mkdir(NEW + name, 0o700, dir_fd=home)
        folder = os.open(NEW + name, _FOLDER, dir_fd=home)
        upper = work = -1
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for part in ("upper", "work"):
                os.mkdir(part, 0o700, dir_fd=folder)
            upper, work = (os.open(part, os.O_PATH | _FOLDER, dir_fd=folder) for part in ("upper", "work"))
            meta = {
                "format": FORMAT,
                "lower": lower_path,
                "lower_inode": os.fstat(lower_fd).st_ino,
                "backend": backend,
                "created_s": time.time(),
                "started_ns": _now(backend),
                "device_whiteouts": _try_format(work, place),
            }
            _write(folder, META, json.dumps(meta).encode())
            metadata.copy_directory(lower_fd, upper)
            os.rename(NEW + name, name, src_dir_fd=home, dst_dir_fd=home)
            return cls(os.path.join(os.path.realpath(place), name), folder, meta, (lower_fd, upper, work))
        except BaseException:
            try:
                remove_tree(home, os.fsencode(NEW + name))  # while it is locked, see `remove`
            finally:
                for fd in (upper, work, folder):
                    if fd >= 0:
                        os.close(fd)
            raise

    @staticmethod
    def drop(path: str) -> None:
        """Remove the folder of a branch that nobody has open, without a look at its lower directory."""
        folder = open_folder(path)
        try:
            _lock(folder, path)
            read_meta(folder, path)
            home = os.open("..", _FOLDER, dir_fd=folder)
        finally:
            os.close(folder)
        try:
            remove_tree(home, os.fsencode(os.path.basename(path)))
        finally:
            os.close(home)

    @classmethod
    def open(cls, path: str | bytes) -> Store:
        """Lock and open an existing branch's folder."""
        place = os.path.realpath(os.fsdecode(path))
        folder = open_folder(place)
        fds: list[int] = []
        try:
            _lock(folder, place)
            meta = read_meta(folder, place)
            fds.append(_open_lower(meta["lower"]))
            _refuse_other(fds[0], meta)
            fds += (os.open(part, os.O_PATH | _FOLDER, dir_fd=folder) for part in ("upper", "work"))
            _clear(fds[2])
            return cls(place, folder, meta, (fds[0], fds[1], fds[2]))
        except BaseException:
            for fd in (*fds, folder):
                os.close(fd)
            raise

    def overlay_options(self) -> bytes:
        """The mount data; colons, commas and backslashes in paths are escaped as overlayfs wants it."""
        options = [b"userxattr"]
        for option, path in (("lowerdir", self.lower), ("upperdir", self.upper), ("workdir", self.path + "/work")):
            value = os.fsencode(path).replace(b"\\", b"\\\\").replace(b",", b"\\,")
            options.append(option.encode() + b"=" + (value.replace(b":", b"\\:") if option == "lowerdir" else value))
        return b",".join(options)

    def mark_kept(self) -> None:
        """Note that somebody wants this branch."""
        _write(self.folder, KEPT, b"")

    def close(self) -> None:
        """Close everything and release the lock."""
        if not self.closed:
            self.closed = True
            for fd in (self.lower_fd, self.upper_fd, self.work_fd, self.folder):
                os.close(fd)

    def remove(self) -> None:
        """Remove the folder, and close. A crash halfway leaves a name that `sweep` clears."""
        home = os.open("..", _FOLDER, dir_fd=self.folder)
        lock = os.dup(self.folder)  # until all is gone: whoever sweeps meanwhile would take names away from under us
        try:
            name = os.fsencode(os.path.basename(self.path))
            gone = GONE.encode() + name
            os.rename(name, gone, src_dir_fd=home, dst_dir_fd=home)
            self.close()
            remove_tree(home, gone)
        finally:
            os.close(lock)
            os.close(home)


def _lock(folder: int, path: str) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BranchBusyError(path) from error


def _clear(work: int) -> None:
    """Remove what a crash left half made in the work directory."""
    readable = os.open(".", _FOLDER, dir_fd=work)
    try:
        names = os.listdir(readable)
    finally:
        os.close(readable)
    for name in names:
        remove_tree(work, os.fsencode(name))


def sweep(home: int) -> None:
    """Remove what a crash left half made or half removed: names that are no branch's, and that nobody holds locked."""
    for name in os.listdir(home):
        if not name.startswith((NEW, GONE)):
            continue
        try:
            folder = os.open(name, _FOLDER, dir_fd=home)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(home, os.fsencode(name))
        except (BlockingIOError, FileNotFoundError):
            continue  # its maker or remover is at work
        finally:
            os.close(folder)


def open_folder(path: str) -> int:
    """Open a branch's folder, which must be ours and private."""
    try:
        folder = os.open(path, _FOLDER)
    except OSError as error:
        raise BranchStorageError(path, (error.strerror or "cannot be opened").lower()) from error
    found = os.fstat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(folder)
        raise BranchStorageError(path, "is not private to this user")
    return folder


def read_meta(folder: int, path: str) -> dict[str, Any]:
    """What the meta file says, checked; a foreign or newer one is an error."""
    try:
        fd = os.open(META, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        with open(fd, "rb") as file:
            meta = json.loads(file.read(1 << 20))
    except (OSError, ValueError) as error:
        raise BranchStorageError(path, "holds no branch") from error
    kinds = {"lower": str, "lower_inode": int, "backend": str, "device_whiteouts": bool, "started_ns": int}
    if not isinstance(meta, dict) or any(not isinstance(meta.get(key), kind) for key, kind in kinds.items()):
        raise BranchStorageError(path, "holds no branch")
    if meta.get("format") != FORMAT:
        raise BranchStorageError(path, f"was written in format {meta.get('format')!r}, and this is for {FORMAT}")
    return meta


def _now(backend: str) -> int:
    """A moment that separates what was changed before from what is changed after this returns.

    Change times come from a clock that ticks every few milliseconds, and since 6.13 sometimes from the fine one. An
    overlay mount notes nothing of what it first touched, so its conflicts are told by change times alone: there it is
    worth the wait for the next tick.
    """
    now = time.time_ns()
    while backend == "overlay" and time.clock_gettime_ns(_REALTIME_COARSE) <= now:
        time.sleep(0.001)
    return now


def _write(folder: int, name: str, content: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    with open(fd, "wb") as file:
        file.write(content)


def _open_lower(path: str) -> int:
    try:
        return os.open(path, os.O_PATH | _FOLDER)
    except OSError as error:
        raise BranchStorageError(path, (error.strerror or "cannot be opened").lower()) from error


def _refuse_other(lower: int, meta: dict[str, Any]) -> None:
    if os.fstat(lower).st_ino != meta["lower_inode"]:
        raise BranchStorageError(meta["lower"], "is not the directory that this branch was made over")


def _prepare_storage(path: str) -> str:
    """Make the storage if it is missing, and check that nobody else can put things there."""
    try:
        if not os.path.isdir(path):
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            os.mkdir(path, 0o700)
        real = os.path.realpath(path)
        found = os.stat(real, follow_symlinks=False)
    except OSError as error:
        raise BranchStorageError(path, (error.strerror or "cannot be made").lower()) from error
    if found.st_uid != os.geteuid():
        raise BranchStorageError(path, "belongs to another user")
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise BranchStorageError(path, "can be written by others: chmod go-w it, or name a folder below it")
    return real


def _refuse_nesting(lower: int, lower_path: str, home: int, storage_path: str) -> None:
    """By identity, up through every parent: bind mounts and links hide nothing."""
    if _contains(lower, home):
        raise BranchStorageError(storage_path, f"is inside {lower_path}, the directory that it would cover")
    if _contains(home, lower):
        raise BranchStorageError(storage_path, f"holds {lower_path}, the directory that it would cover")


def _contains(outer: int, inner: int) -> bool:
    wanted = os.fstat(outer)
    here = os.open(".", os.O_PATH | _FOLDER, dir_fd=inner)
    try:
        while True:
            found = os.fstat(here)
            if os.path.samestat(found, wanted):
                return True
            above = os.open("..", os.O_PATH | _FOLDER, dir_fd=here)
            os.close(here)
            here = above
            if os.path.samestat(found, os.fstat(here)):
                return False
    finally:
        os.close(here)


def _try_format(work: int, path: str) -> bool:
    """Whether whiteouts are devices here; an error where extended attributes are missing, without which none works."""
    os.mkdir(b"probe-attribute", 0o700, dir_fd=work)
    try:
        overlay.set_opaque(work, b"probe-attribute")
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
            raise
        raise BranchStorageError(path, "its file system has no extended attributes for users") from error
    finally:
        os.rmdir(b"probe-attribute", dir_fd=work)
    return overlay.writes_device_whiteouts(work)
