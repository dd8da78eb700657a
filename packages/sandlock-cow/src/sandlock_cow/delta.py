"""What differs between the real tree and the branch."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandlock_cow import metadata, overlay
from sandlock_cow.errors import BranchConflictError, Conflict
from sandlock_cow.late import GIT_RUNS, late_mark
from sandlock_cow.model import Change, Entry, Kind
from sandlock_cow.walking import open_below, open_readable, open_upper, opened_up, scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock_cow.tree import Tree

__all__ = ["Delta", "changes", "deltas", "describe", "public"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BUFFER = 1 << 20
# What a file says that it holds costs a program nothing (truncate); a digest costs its reader the same as data.
_MAX_DIGEST = 1 << 30


@dataclass(frozen=True, slots=True)
class Delta:
    """One path that may differ: attributes of both sides, None where that side has nothing.

    Attributes:
        path: inside the branch.
        before: in the real tree.
        after: in the branch.
        same: whether a look at both sides found no difference (a directory that was only passed through).
        late: why the change takes effect outside later, or "".

    """

    path: bytes
    before: os.stat_result | None
    after: os.stat_result | None
    same: bool = False
    late: str = ""

    @property
    def is_directory(self) -> bool:
        """Whether a directory is there afterwards."""
        return self.after is not None and stat.S_ISDIR(self.after.st_mode)

    @property
    def was_directory(self) -> bool:
        """Whether a directory was there before."""
        return self.before is not None and stat.S_ISDIR(self.before.st_mode)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A directory of either side still to be compared."""

    path: bytes
    upper: bool  # the branch has an upper part
    lower: bool  # the real tree has it
    merged: bool  # what the upper part does not mention is unchanged, not removed
    bare: bytes = b""  # the part of the path below a bare git repository, of what git runs or looks at there


def deltas(tree: Tree, *, digests: bool = True) -> Iterator[Delta]:
    """Every path that the upper layer says something about, parents before what is in them.

    Unchanged directories that hold changes are told too, with `same`.
    """
    pending = [_Pair(b"", upper=True, lower=True, merged=True)]
    yield Delta(b"", os.fstat(tree.lower), os.fstat(tree.upper), _same_directory(tree.lower, tree.upper))
    while pending:
        pair = pending.pop()
        upper = open_upper(tree.upper, pair.path) if pair.upper else -1
        lower = -1
        try:
            lower = _open_lower(tree, pair.path) if pair.lower else -1
            with opened_up(upper) if upper >= 0 else nullcontext():
                found = list(_compare(pair, upper, lower, digests=digests))
        finally:
            for fd in (upper, lower):
                if fd >= 0:
                    os.close(fd)
        for _, below in reversed(found):
            if below is not None:
                pending.append(below)
        yield from (delta for delta, _ in found)


def _open_lower(tree: Tree, path: bytes) -> int:
    """It was a directory a moment ago."""
    try:
        return open_below(tree.lower, path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        conflict = Conflict((os.fsdecode(path), "became something else"))
        raise BranchConflictError((conflict,)) from error


def _compare(pair: _Pair, upper: int, lower: int, *, digests: bool) -> Iterator[tuple[Delta, _Pair | None]]:
    ours = dict(scan(upper)) if upper >= 0 else {}
    theirs = dict(scan(lower)) if lower >= 0 and not pair.merged else {}
    beside_head = any(name.lower() == b"head" for name in (*ours, *theirs)) or _look(lower, b"HEAD") is not None
    for name in sorted({*ours, *theirs}):
        path = pair.path + b"/" + name if pair.path else name
        before = theirs.get(name) if not pair.merged else _look(lower, name)
        if before is not None and overlay.is_whiteout_mode(before):
            before = None
        after = ours.get(name)
        if after is not None and overlay.is_whiteout(upper, name, after):
            after = None
        if before is None and after is None:
            continue
        same = _same(upper, lower, name, before, after, digests=digests)
        bare = pair.bare + b"/" + name if pair.bare else name if beside_head and name.lower() in GIT_RUNS else b""
        delta = Delta(path, before, after, same, late_mark(path, after, bare))
        below = None
        if delta.is_directory:
            merged = pair.merged and delta.was_directory and not _opaque(upper, name)
            below = _Pair(path, upper=True, lower=delta.was_directory, merged=merged, bare=bare)
        elif delta.was_directory:
            below = _Pair(path, upper=False, lower=True, merged=False, bare=bare)
        yield delta, below


def _look(directory: int, name: bytes) -> os.stat_result | None:
    if directory < 0:
        return None
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _opaque(directory: int, name: bytes) -> bool:
    fd = open_below(directory, name)
    try:
        return overlay.is_opaque(fd)
    finally:
        os.close(fd)


def _same(
    upper: int,
    lower: int,
    name: bytes,
    before: os.stat_result | None,
    after: os.stat_result | None,
    *,
    digests: bool,
) -> bool:
    """Whether the copy in the upper layer is still what it was copied from."""
    if before is None or after is None:
        return False
    kind = stat.S_IFMT(before.st_mode)
    if kind == stat.S_IFDIR == stat.S_IFMT(after.st_mode):
        first, second = open_below(lower, name), open_below(upper, name)
        try:
            return _same_directory(first, second)
        finally:
            os.close(first)
            os.close(second)
    if (before.st_mode, before.st_uid, before.st_gid) != (after.st_mode, after.st_uid, after.st_gid):
        return False
    if kind == stat.S_IFIFO:
        return True  # its time tells of bytes that went through
    if before.st_mtime_ns != after.st_mtime_ns:
        return False
    if kind == stat.S_IFLNK:
        return os.readlink(name, dir_fd=lower) == os.readlink(name, dir_fd=upper)
    if kind != stat.S_IFREG:
        return True
    if before.st_size != after.st_size or _xattrs(lower, name) != _xattrs(upper, name, upper=True):
        return False
    if before.st_size > _MAX_DIGEST:
        return False  # written to, and not worth the time to find out that it is as before
    return not digests or _digest(lower, name) == _digest(upper, name, upper=True)


def _same_directory(lower: int, upper: int) -> bool:
    before, after = os.fstat(lower), os.fstat(upper)
    if before.st_mode != after.st_mode or not _same_owner(before, after):
        return False
    return _xattrs(lower, b".") == _xattrs(upper, b".", upper=True)


def _same_owner(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a directory belongs to whom it did: who is not root has copies of others' that are his own."""
    mine = os.geteuid()
    if mine not in (0, before.st_uid) and after.st_uid == mine:
        return True
    return (before.st_uid, before.st_gid) == (after.st_uid, after.st_gid)


def _xattrs(directory: int, name: bytes, *, upper: bool = False) -> dict[bytes, bytes]:
    """What a program sees of them."""
    return metadata.program_xattrs(b"/proc/self/fd/%d/%s" % (directory, name), follow=False, upper=upper)


def _digest(directory: int, name: bytes, *, upper: bool = False) -> str:
    fd = open_readable(directory, name) if upper else os.open(name, _READ, dir_fd=directory)
    try:
        digest = hashlib.sha256()
        while data := os.read(fd, _BUFFER):
            digest.update(data)
        return digest.hexdigest()
    finally:
        os.close(fd)


def describe(tree: Tree, path: bytes, found: os.stat_result | None, *, upper: bool, digests: bool) -> Entry | None:
    """The public description of one side; no digest of a huge file, or of one that we may not read."""
    if found is None:
        return None
    kind = Kind.of(found.st_mode)
    mode = stat.S_IMODE(found.st_mode)
    if kind not in (Kind.FILE, Kind.SYMLINK):
        return Entry(kind, mode)
    above, _, name = path.rpartition(b"/")
    directory = open_upper(tree.upper, above) if upper else open_below(tree.lower, above)
    try:
        with opened_up(directory) if upper else nullcontext():
            if kind is Kind.SYMLINK:
                return Entry(kind, mode, target=os.fsdecode(os.readlink(name, dir_fd=directory)))
            readable = upper or os.access(name, os.R_OK, dir_fd=directory, effective_ids=True, follow_symlinks=False)
            wanted = digests and readable and found.st_size <= _MAX_DIGEST
            return Entry(kind, mode, found.st_size, _digest(directory, name, upper=upper) if wanted else "")
    finally:
        os.close(directory)


def changes(tree: Tree, *, digests: bool = True, limit: int | None = None) -> tuple[Change, ...]:
    """The public list, sorted by path. Nothing is digested when all files together have more than `limit` bytes."""
    found = [delta for delta in deltas(tree, digests=digests and limit is None) if not delta.same]
    if limit is not None:
        sizes = sum(side.st_size for delta in found for side in (delta.before, delta.after) if side is not None)
        digests = digests and sizes <= limit
    told = (public(tree, delta, digests=digests) for delta in found)
    return tuple(sorted(told, key=lambda change: os.fsencode(change.path)))


def public(tree: Tree, delta: Delta, *, digests: bool) -> Change:
    """The public form of one delta."""
    return Change(
        os.fsdecode(delta.path),
        describe(tree, delta.path, delta.before, upper=False, digests=digests),
        describe(tree, delta.path, delta.after, upper=True, digests=digests),
        delta.late,
    )
