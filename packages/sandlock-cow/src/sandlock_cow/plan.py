"""What a commit will do, decided before anything is touched: which paths, which order, and what forbids it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from sandlock_cow.delta import deltas
from sandlock_cow.errors import BranchConflictError, BranchLateExecutionError, Conflict
from sandlock_cow.journal import Step
from sandlock_cow.records import ABSENT, signature

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandlock_cow.delta import Delta
    from sandlock_cow.records import Signature
    from sandlock_cow.tree import Tree

__all__ = ["choose", "refuse_conflicts", "refuse_late", "steps"]


def _normal(paths: Iterable[str | bytes]) -> set[bytes]:
    return {os.fsencode(path).rstrip(b"/") for path in paths}


def _below(path: bytes, chosen: set[bytes]) -> bool:
    """Whether `path` or one of its parents is in `chosen`; b"" is the parent of all."""
    while path not in chosen:
        if not path:
            return False
        path = path.rpartition(b"/")[0]
    return True


def choose(tree: Tree, paths: Iterable[str | bytes] | None) -> list[Delta]:
    """The deltas to apply, parents first. Missing parents of chosen paths are chosen with them."""
    found = list(deltas(tree))
    if paths is None:
        return found
    wanted = _normal(paths)
    chosen = {delta.path for delta in found if _below(delta.path, wanted)}
    needed = {above for path in chosen for above in _parents(path)}
    return [
        delta
        for delta in found
        if delta.path in chosen or (delta.path in needed and delta.is_directory and not delta.was_directory)
    ]


def _parents(path: bytes) -> Iterable[bytes]:
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def refuse_late(chosen: list[Delta], paths: Iterable[str | bytes] | None, allowed: Iterable[str | bytes]) -> None:
    """Raise unless every path that runs later was named, itself in `paths` or it or a parent in `allowed`."""
    named, below = _normal(paths or ()), _normal(allowed)
    refused = [
        (os.fsdecode(delta.path), delta.late)
        for delta in chosen
        if not delta.same and delta.late and delta.path not in named and not _below(delta.path, below)
    ]
    if refused:
        raise BranchLateExecutionError(tuple(refused))


def refuse_conflicts(tree: Tree, chosen: list[Delta], linked: frozenset[int] = frozenset()) -> None:
    """Raise when something chosen is not any more what the branch was made over.

    `linked` are inode numbers of files that staging gave another name: that moved their change times.
    """
    conflicts = [
        Conflict((os.fsdecode(delta.path), reason))
        for delta in chosen
        if (not delta.same or delta.before is None) and (reason := _conflict(tree, delta, linked))
    ]
    if conflicts:
        raise BranchConflictError(tuple(conflicts))


def _conflict(tree: Tree, delta: Delta, linked: frozenset[int]) -> str:
    if not delta.path:
        return ""  # the root is known by its inode, which the store has checked
    noted = tree.records.get(delta.path)
    if noted is not None:
        now = signature(delta.before)
        if delta.before is not None and delta.before.st_ino in linked and not delta.was_directory:
            noted, now = noted[:-1], now[:-1]
        return "" if noted == now else _reason(noted, now)
    # Never noted: below a new directory, where nothing was; or made by an overlay mount, which notes nothing.
    if delta.before is None:
        return ""
    if delta.was_directory and delta.is_directory:
        return ""
    return "was made or changed" if delta.before.st_ctime_ns > tree.store.started_ns else ""


def _reason(noted: Signature, now: Signature) -> str:
    if noted == ABSENT:
        return "was made"
    if now == ABSENT:
        return "was removed"
    if stat.S_IFMT(noted[0]) != stat.S_IFMT(now[0]):
        return "became something else"
    return "was changed" if noted[3] == now[3] else "was replaced"


def steps(chosen: list[Delta]) -> list[Step]:
    """The order that never loses anything: directories, then new content, then removals, then what those make room for.

    Attributes of directories come last, innermost first, since everything else moves their times.
    """
    makes: list[Step] = []
    places: list[Step] = []
    removals: list[Step] = []
    late_places: list[Step] = []
    attributes: list[Step] = []
    prefix = b".sandlock-%s-" % os.urandom(6).hex().encode()
    fresh = {delta.path for delta in chosen if delta.is_directory and not delta.was_directory}
    for number, delta in enumerate(chosen):
        if delta.is_directory:
            attributes.append(Step("attributes", delta.path))
        if delta.same:
            continue
        replaces = delta.before.st_ino if delta.before is not None else 0
        temporary = b"%s%d" % (prefix, number)
        if delta.after is None:
            removals.append(Step("rmdir" if delta.was_directory else "remove", delta.path, replaces=replaces))
        elif not delta.is_directory:
            step = Step("place", delta.path, temporary, _folder(delta.path, fresh), 0, delta.was_directory, replaces)
            (late_places if delta.was_directory else places).append(step)
        elif not delta.was_directory:
            exchange = delta.before is not None
            folder = _folder(delta.path, fresh)
            makes.append(Step("make", delta.path, temporary if exchange else b"", folder, 0, exchange, replaces))
    return [*makes, *places, *reversed(removals), *late_places, *reversed(attributes)]


def _folder(path: bytes, fresh: set[bytes]) -> bytes:
    """The nearest directory above `path` that is in the real tree already."""
    above = path.rpartition(b"/")[0]
    while above in fresh:
        above = above.rpartition(b"/")[0]
    return above
