"""Apply a branch to the real tree: decide, note, stage, flush, rename into place; and recover from a crash."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from sandlock_cow import journal as journals
from sandlock_cow import metadata, plan, staging
from sandlock_cow.delta import public
from sandlock_cow.errors import BranchError
from sandlock_cow.journal import Journal, Step
from sandlock_cow.records import signature
from sandlock_cow.removing import remove_tree
from sandlock_cow.walking import open_below, open_upper
from sandlock_sys.rename import exchange, rename_new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandlock_cow.delta import Delta
    from sandlock_cow.model import Change
    from sandlock_cow.records import Signature
    from sandlock_cow.tree import Tree

__all__ = ["commit", "recover"]

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def commit(
    tree: Tree,
    paths: Iterable[str | bytes] | None,
    allow_late: Iterable[str | bytes],
    progress: Callable[[int, int], None] | None,
) -> tuple[Change, ...]:
    """See `Branch.commit`. What is left of the storage afterwards is the caller's."""
    recover(tree)
    if paths is not None:
        paths = list(paths)
    chosen = plan.choose(tree, paths)
    plan.refuse_conflicts(tree, chosen)
    plan.refuse_late(chosen, paths, allow_late)
    applied = tuple(public(tree, delta, digests=True) for delta in chosen if not delta.same)
    todo = plan.steps(chosen)
    if not applied and not any(step.action == "attributes" for step in todo):
        return ()
    unchanged = _matching(tree) if paths is not None else {}
    journal = Journal("stage", paths is None, todo, staging.folders(tree, todo))
    tick = _ticker(progress, sum(1 for step in todo if step.temporary) + len(todo))
    journals.write(tree.store.folder, journal)
    try:
        staging.open_up(tree, journal)
        staged = staging.stage(tree, journal, chosen, tick)
        staging.flush(tree, [(step.folder, step.temporary) for step in todo if step.temporary])
        # Staging takes long: look once more, as late as possible.
        plan.refuse_conflicts(tree, _chosen_beside(tree, paths, journal), staged)
    except BaseException:
        staging.unstage(tree, journal)
        journals.drop(tree.store.folder)
        raise
    journal.phase = "apply"
    journals.write(tree.store.folder, journal)
    _apply(tree, journal, tick)
    _settle(tree, journal, unchanged)
    return applied


def _chosen_beside(tree: Tree, paths: Iterable[str | bytes] | None, journal: Journal) -> list[Delta]:
    """What is chosen now, without what staging put beside it."""
    ours = {step.temporary for step in journal.steps if step.temporary}
    return [delta for delta in plan.choose(tree, paths) if delta.path.rpartition(b"/")[2] not in ours]


def _ticker(progress: Callable[[int, int], None] | None, whole: int) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, whole)

    return tick


def recover(tree: Tree) -> None:
    """Undo or finish what a crash interrupted; nothing happens where no commit was under way."""
    journal = journals.read(tree.store.folder)
    if journal is None:
        return
    if journal.phase == "stage":
        staging.unstage(tree, journal)
        journals.drop(tree.store.folder)
        return
    staging.open_up(tree, journal)
    _apply(tree, journal, lambda: None)
    _settle(tree, journal, {})
    if journal.whole:
        _empty_upper(tree)
    journals.drop(tree.store.folder)


def _apply(tree: Tree, journal: Journal, tick: Callable[[], None]) -> None:
    """Do every step; each finds out by itself whether it was done before."""
    for step in journal.steps:
        try:
            _DO[step.action](tree, step)
        except OSError as error:
            where = os.fsdecode(step.path)
            raise BranchError(f"the commit stopped at {where!r} ({error}): resume the branch to finish it") from error
        tick()
    staging.flush(tree, [(folder.path, b"") for folder in journal.folders])


def _make(tree: Tree, step: Step) -> None:
    if step.temporary:
        _put(tree, step)
        return
    above, _, name = step.path.rpartition(b"/")
    directory = open_below(tree.lower, above)
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise
    finally:
        os.close(directory)


def _put(tree: Tree, step: Step) -> None:
    """Bring what was staged to its place; its inode number tells whether it is there already."""
    above, _, name = step.path.rpartition(b"/")
    folder = open_below(tree.lower, step.folder)
    try:
        directory = open_below(tree.lower, above)
        try:
            staged = _inode(folder, step.temporary)
            if staged == step.inode:
                if step.exchange:
                    exchange(folder, step.temporary, directory, name)
                elif step.replaces:
                    os.rename(step.temporary, name, src_dir_fd=folder, dst_dir_fd=directory)
                else:
                    rename_new(folder, step.temporary, directory, name)
            if step.exchange:
                remove_tree(folder, step.temporary)
        finally:
            os.close(directory)
    finally:
        os.close(folder)


def _inode(directory: int, name: bytes) -> int:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return 0


def _remove(tree: Tree, step: Step) -> None:
    above, _, name = step.path.rpartition(b"/")
    try:
        directory = open_below(tree.lower, above)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return
    try:
        if _inode(directory, name) != step.replaces:
            return  # done before, or somebody put something new there
        if step.action == "remove":
            os.unlink(name, dir_fd=directory)
        else:
            os.rmdir(name, dir_fd=directory)
    except OSError as error:
        # A file that somebody put into the directory in this moment is not ours to remove.
        if error.errno != errno.ENOTEMPTY:
            raise
    finally:
        os.close(directory)


def _attributes(tree: Tree, step: Step) -> None:
    upper = open_upper(tree.upper, step.path)
    try:
        lower = open_below(tree.lower, step.path)
        try:
            metadata.copy_directory(upper, lower, upper=True)
        finally:
            os.close(lower)
    finally:
        os.close(upper)


_DO: dict[str, Callable[[Tree, Step], None]] = {
    "make": _make,
    "place": _put,
    "remove": _remove,
    "rmdir": _remove,
    "attributes": _attributes,
}


def _matching(tree: Tree) -> dict[bytes, Signature]:
    """The noted paths that are still as noted: our own steps may move their change times, by hard links."""
    return {path: noted for path, noted in tree.records.items() if _signature_now(tree, path) == noted}


def _signature_now(tree: Tree, path: bytes) -> Signature:
    above, _, name = path.rpartition(b"/")
    try:
        directory = open_below(tree.lower, above)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return signature(None)
    try:
        return signature(os.stat(name, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return signature(None)
    finally:
        os.close(directory)


def _settle(tree: Tree, journal: Journal, unchanged: dict[bytes, Signature]) -> None:
    """After a part was applied: what is in the upper layer of it equals the real tree now, and is noted so."""
    tree.directories.close()
    if journal.whole:
        return
    mine = {step.path for step in journal.steps if step.path} | unchanged.keys()
    tree.records.forget((), {path: _signature_now(tree, path) for path in mine})
    for path in {step.path for step in journal.steps if step.path}:
        tree.committed(tuple(path.split(b"/")))
    journals.drop(tree.store.folder)


def _empty_upper(tree: Tree) -> None:
    """A commit of everything that a crash interrupted is over: the branch holds nothing any more."""
    root = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.upper)
    try:
        for name in os.listdir(root):
            remove_tree(tree.upper, os.fsencode(name))
    finally:
        os.close(root)
    tree.records.forget([path for path, _ in tree.records.items()], {})
