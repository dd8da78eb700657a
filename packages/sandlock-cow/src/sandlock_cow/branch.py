"""A branch: the public face. Every operation is in a module of its own; this one locks, delegates and documents."""

from __future__ import annotations

from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING

from sandlock_cow import attributes, committing, creation, listing, opening, removal, renaming
from sandlock_cow.beside import Beside
from sandlock_cow.books import Books
from sandlock_cow.delta import changes as _changes
from sandlock_cow.errors import BranchError
from sandlock_cow.paths import inside, split
from sandlock_cow.storage import Store
from sandlock_cow.tree import Tree

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from sandlock_cow.model import Change, Found, Name, OpenAt, Usage

__all__ = ["Branch"]


class Branch:
    """A copy-on-write branch over the directory `lower`: reads see the real tree, writes go to the storage.

    Paths are bytes, relative to the branch, components joined by `/`; b"" is the root. No component may be empty, `.`
    or `..` (ValueError), and **nothing is followed**: a symlink in the middle of a path is ENOTDIR, one at its end is
    operated on itself. Following links and `..` is the business of the caller, who knows the whole view. No operation
    leaves `lower` and the storage, whatever is renamed or replaced by links meanwhile: all of them act through
    directory fds with O_NOFOLLOW.

    Failures of an operation are OSErrors with the errno that the kernel would give (BranchQuotaError is ENOSPC);
    failures of the branch as a whole are BranchErrors. Semantics are those of overlayfs; renaming a directory of the
    real tree works (it is copied up first). A file opened for reading before it was copied up keeps reading the old
    one; that of an overlay mount reads the new one.

    Modes are used as given: apply the caller's umask first. Permissions are checked by the kernel against the real
    user and the modes that the branch shows.

    Thread-safe; operations exclude each other. `with Branch(...)` discards at the end what was neither committed nor
    kept. `books` tells which files a quota is about, `beside` where the layers are.
    """

    def __init__(
        self,
        lower: str | bytes,
        *,
        storage: str | bytes | None = None,
        quota: int | None = None,
        backend: str = "served",
    ) -> None:
        """Make a new branch.

        Arguments:
            lower: an existing directory, the real tree.
            storage: folder for branches, made with mode 0700 if missing; default
                `$XDG_STATE_HOME/sandlock/branches` (`~/.local/state/...`). It may be on another file system than
                `lower`, where every copy-up copies all bytes. It may not be inside `lower`, nor the reverse.
            quota: bytes that the branch may hold (see `Usage.allocated`), None for no limit.
            backend: "served": changes are made through this object. "overlay": they are made by an overlay mount with
                `overlay_options()`; while it is mounted only `usage`, `keep` and `close` may be called here.

        Raises:
            BranchStorageError: `lower` is missing or no directory; the storage is not private to this user, is inside
                `lower` or around it, or cannot hold a branch (no user extended attributes, no whiteouts).
            ValueError: another backend, or a negative quota.

        """
        self._open(Store.create(lower, storage, backend), quota)

    @classmethod
    def resume(cls, folder: str | bytes, *, quota: int | None = None) -> Self:
        """Open a branch that was kept or left by a crash: `Preserved.path` of `list_preserved()`.

        A commit that was interrupted is finished or undone first: if it had reached the point where everything was
        staged, it is finished (and a branch committed whole is then empty), else undone. A folder whose process died
        before the branch existed is not a branch.

        Raises:
            BranchBusyError: it is open already, here or in another process.
            BranchStorageError: not a branch, not private to this user, or its lower directory is no longer that one.

        """
        self = cls.__new__(cls)
        self._open(Store.open(folder), quota)
        try:
            committing.recover(self._tree)
        except BaseException:
            self.close()
            raise
        return self

    def _open(self, store: Store, quota: int | None) -> None:
        self._lock = RLock()
        self._store = store
        self.beside = Beside(self._lock)
        self.books = Books(self._using)
        try:
            self._tree = Tree(store, quota, self.beside)
        except BaseException:
            store.close()
            raise

    @contextmanager
    def _using(self) -> Iterator[Tree]:
        with self.beside:
            if self._store.closed:
                raise BranchError(f"the branch {self.path} is closed")
            self._tree.trim()
            yield self._tree

    # What it is.

    @property
    def path(self) -> str:
        """The branch's folder in the storage: what `resume` wants."""
        return self._store.path

    @property
    def lower(self) -> str:
        """The real tree, absolute, no links in it."""
        return self._store.lower

    @property
    def upper(self) -> str:
        """The folder with what changed, in overlayfs's format (`userxattr`)."""
        return self._store.upper

    @property
    def backend(self) -> str:
        """`served` or `overlay`."""
        return self._store.backend

    @property
    def closed(self) -> bool:
        """Whether the branch was closed, discarded or committed whole."""
        return self._store.closed

    def overlay_options(self) -> bytes:
        """The data string for `mount("overlay", target, "overlay", flags, data)`: userxattr, lower, upper, work.

        Give it to mount(2) in a user and mount namespace of one's own (5.11 and later allow it to a plain user).
        """
        return self._store.overlay_options()

    def inside(self, real: bytes) -> bytes | None:
        """The branch's path for an absolute real one below `lower` or `upper` (of `/proc/PID/fd/N`), None elsewhere.

        Textual: right for what the kernel prints, which has no links in it. A trailing ` (deleted)` is not removed.
        """
        return inside(real, self._store.roots)

    # Looking.

    def lookup(self, path: bytes) -> Found:
        """Find `path`, without following it. It may be absent; its parent may not (ENOENT, ENOTDIR, EACCES)."""
        with self._using() as tree:
            return tree.find(split(path))

    def stat(self, path: bytes) -> os.stat_result:
        """Attributes of the backing object of `path`, as lstat; ENOENT when absent. See `identity`."""
        with self._using() as tree:
            return tree.require(split(path)).attributes

    def identity(self, attributes: os.stat_result) -> tuple[int, int]:
        """The `(st_dev, st_ino)` that a program should see for a backing file's attributes (of a path or of an fd).

        They stay the same when the file is copied up, and are unique in the branch: the device is the real tree's; the
        inode number of what only the branch holds has bit 62 set when the storage is another file system.
        """
        with self._lock:
            return self._tree.identities.of(attributes)

    def readlink(self, path: bytes) -> bytes:
        """Where the symlink points; EINVAL when it is none."""
        with self._using() as tree:
            return opening.readlink(tree, split(path))

    def listdir(self, path: bytes) -> tuple[Name, ...]:
        """The names of a directory, upper and lower merged, without `.` and `..`, sorted by bytes."""
        with self._using() as tree:
            return listing.names(tree, split(path))

    def access(self, path: bytes, mode: int) -> None:
        """Succeed, or raise EACCES (EROFS), as faccessat(2) with AT_EACCESS | AT_SYMLINK_NOFOLLOW."""
        with self._using() as tree:
            attributes.access(tree, split(path), mode)

    # Opening.

    def open(self, path: bytes, flags: int, mode: int = 0o666) -> int:
        """Open `path` and return an fd that the caller owns, close-on-exec.

        All flags of open(2): O_CREAT, O_EXCL, O_TRUNC, O_DIRECTORY, O_PATH, O_TMPFILE (`path` is the directory), ...;
        O_NOFOLLOW is implied. Opening for writing (O_TRUNC too) copies the file up first. An fd of a directory is of
        its upper or lower part alone: for openat and fstat, not for reading names.
        A FIFO is copied up too. It, or a device, may block: whoever must not, uses `prepare_open` and lets another make
        the last step.
        """
        with self._using() as tree:
            return opening.open_entry(tree, split(path), flags, mode)

    def prepare_open(self, path: bytes, flags: int, mode: int = 0o666) -> OpenAt:
        """Do all of `open` but its last step, and say what that is. A file for O_CREAT is made here."""
        with self._using() as tree:
            return opening.prepare(tree, split(path), flags, mode)

    def copy_up(self, path: bytes) -> Found:
        """Make sure that `path` is in the upper layer, with its attributes and hard links, and find it there."""
        with self._using() as tree:
            return tree.copy_up(split(path))

    # Making.

    def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        """Make a directory; EEXIST, EACCES, ENOSPC."""
        with self._using() as tree:
            creation.mkdir(tree, split(path), mode)

    def mknod(self, path: bytes, mode: int, device: int = 0) -> None:
        """Make a file, FIFO or socket (`mode` with S_IFREG, S_IFIFO, S_IFSOCK); EPERM for devices."""
        with self._using() as tree:
            creation.mknod(tree, split(path), mode)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symlink at `path` that says `target`; EEXIST."""
        with self._using() as tree:
            creation.symlink(tree, target, split(path))

    def link(self, source: bytes, path: bytes) -> None:
        """Make `path` another name of `source` (a symlink itself, not what it points to); EPERM for a directory."""
        with self._using() as tree:
            creation.link(tree, split(source), split(path))

    def link_fd(self, fd: int, path: bytes) -> None:
        """Give a name to a file that `open` made with O_TMPFILE; EXDEV for any other file, ENOENT when it has names."""
        with self._using() as tree:
            creation.link_fd(tree, fd, split(path))

    # Removing, moving.

    def unlink(self, path: bytes) -> None:
        """Remove anything but a directory (EISDIR)."""
        with self._using() as tree:
            removal.unlink(tree, split(path))

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory; ENOTDIR, ENOTEMPTY, EBUSY for the root."""
        with self._using() as tree:
            removal.rmdir(tree, split(path))

    def rename(self, source: bytes, target: bytes, flags: int = 0) -> None:
        """Move a file or directory, as renameat2(2): 0, RENAME_NOREPLACE (1) or RENAME_EXCHANGE (2), else EINVAL."""
        with self._using() as tree:
            renaming.rename(tree, split(source), split(target), flags)

    # Attributes.

    def chmod(self, path: bytes, mode: int) -> None:
        """Set the permission bits; EOPNOTSUPP for a symlink."""
        with self._using() as tree:
            attributes.chmod(tree, split(path), mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set owner and group, -1 keeps one; EPERM as the kernel says."""
        with self._using() as tree:
            attributes.chown(tree, split(path), uid, gid)

    def utime(self, path: bytes, atime_ns: int | None, mtime_ns: int | None) -> None:
        """Set access and modification time in nanoseconds; None leaves one as it is (UTIME_OMIT)."""
        with self._using() as tree:
            attributes.utime(tree, split(path), atime_ns, mtime_ns)

    def truncate(self, path: bytes, length: int) -> None:
        """Cut or extend a regular file; EISDIR, EINVAL, EACCES."""
        with self._using() as tree:
            attributes.truncate(tree, split(path), length)

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        """Value of an extended attribute; ENODATA."""
        with self._using() as tree:
            return attributes.getxattr(tree, split(path), name)

    def listxattr(self, path: bytes) -> tuple[bytes, ...]:
        """Names of the extended attributes, without those of the branch's own book-keeping."""
        with self._using() as tree:
            return attributes.listxattr(tree, split(path))

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute; flags XATTR_CREATE, XATTR_REPLACE. `user.overlay.*` is escaped, never believed."""
        with self._using() as tree:
            attributes.setxattr(tree, split(path), name, value, flags)

    def removexattr(self, path: bytes, name: bytes) -> None:
        """Remove an extended attribute; ENODATA."""
        with self._using() as tree:
            attributes.removexattr(tree, split(path), name)

    # Space.

    def usage(self, *, exact: bool = False) -> Usage:
        """What the branch holds now.

        Cheap: entries made, copied and removed here are counted as they come; files that were opened for writing are
        looked at again (one fstat each). `exact` walks the whole upper layer instead.

        Bytes written through an open fd are seen by the next call of this, and by every operation that adds an entry.
        To refuse such a write beforehand, ask `reserve` first, or call `usage` from a timer.
        """
        with self._using() as tree:
            return tree.space.usage(exact=exact)

    def reserve(self, size: int) -> None:
        """Raise BranchQuotaError if `size` more bytes do not fit. Nothing is set aside: ask before each write."""
        with self._using() as tree:
            tree.space.reserve(size)

    # Outcome.

    def changes(self, *, digests: bool = True, limit: int | None = None) -> tuple[Change, ...]:
        """What a commit would change, sorted by path: deletions, modes and types included.

        A directory is listed when it was made, removed, or its mode, owner or extended attributes changed, not for its
        time alone. A file that was opened for writing and left as it was is not listed. Without `digests` files are
        compared by size and time only, and `Entry.digest` is "". With a `limit` that is so as well, but that there are
        digests when the files have no more bytes than it, all together.
        """
        with self._using() as tree:
            return _changes(tree, digests=digests, limit=limit)

    def commit(
        self,
        paths: Iterable[str | bytes] | None = None,
        *,
        allow_late: Iterable[str | bytes] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Change, ...]:
        """Apply the changes to the real tree and return them.

        Every file is staged beside its place under a temporary name, flushed, and renamed into place; a journal in the
        storage lets `resume` finish or undo after a crash at any point.

        Arguments:
            paths: apply only these and what is below them (and make missing parents); None applies everything, after
                which the branch is closed and its storage removed.
            allow_late: paths with a `Change.late` mark that may be applied; `paths` names them as well, when it names
                the file itself.
            progress: called with (steps done, steps in all) now and then.

        Raises:
            BranchConflictError: a path was changed outside since the branch first touched it. Nothing was applied.
            BranchLateExecutionError: a marked path was not named. Nothing was applied.
            BranchError, OSError: staging failed (disk full, no permission). Nothing was applied.

        """
        with self._using() as tree:
            applied = committing.commit(tree, paths, allow_late, progress)
            if paths is None:
                self._finish()
            return applied

    def discard(self) -> None:
        """Forget everything and remove the storage; the real tree is untouched. Closes the branch."""
        with self._using():
            self._finish()

    def _finish(self) -> None:
        self._tree.close()
        self._store.remove()

    def keep(self) -> str:
        """Close the branch, leave it in the storage and return its folder, for `resume`."""
        with self._using():
            self._store.mark_kept()
            path = self.path
            self.close()
            return path

    def close(self) -> None:
        """Close all fds and the lock. What was neither committed nor discarded stays in the storage. Idempotent."""
        with self._lock:
            if not self._store.closed:
                self._tree.close()
                self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._store.closed:
            self.discard()
