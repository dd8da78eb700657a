"""`sandlock branches`: the branches that wait in the storage for a decision."""

from __future__ import annotations

import json
import os
import time

from sandlock_cli.failure import printable, warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.verbs import options_of
from sandlock_cow import Branch, BranchBusyError, BranchError, BranchStorageError, list_preserved
from sandlock_cow.storage import default_storage
from sandlock_policy.paths import is_below

__all__ = ["branch_name", "check_named", "find_branch", "inside", "main", "open_branch"]


def main(words: list[str]) -> int:
    """Print the branches, the oldest first; 1 where the storage is none."""
    values, rest = parse(words, table(options_of("branches")), "branches")
    if values.get("help"):
        return print_verb("branches")
    if rest:
        raise UsageError(f"branches takes no {rest[0]}", "branches")
    try:
        found = list_preserved(values.get("storage"))
    except BranchError as error:
        warn(str(error))
        return 1
    if values.get("json"):
        rows = [
            {
                "name": os.path.basename(branch.path),
                "path": branch.path,
                "state": branch.state.value,
                "workdir": branch.lower,
                "created_s": branch.created_s,
            }
            for branch in found
        ]
        print(json.dumps({"schema": 1, "branches": rows}))
        return 0
    for branch in found:
        made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(branch.created_s))
        print(f"{branch_name(branch.path, values.get('storage'))}  {branch.state.value:<10}  {made}  "
              f"{printable(branch.lower)}")  # fmt: skip
    return 0


def branch_name(path: str, storage: str | None = None) -> str:
    """Return the shortest word that the verbs take for the branch at `path`: its name, where that is found."""
    if storage is not None:
        return path
    try:
        home = os.path.realpath(default_storage())
    except BranchStorageError:  # there is no home, so no name would be found
        return path
    return os.path.basename(path) if os.path.dirname(path) == home else path


def open_branch(word: str, storage: str | None) -> Branch | None:
    """Open the branch that `word` means, a name in the storage or a path; None where that fails, which is told.

    An interrupted commit is finished or undone first.
    """
    try:
        path = find_branch(word, storage)
    except BranchError as error:
        warn(str(error))
        return None
    try:
        return Branch.resume(path)
    except BranchBusyError:
        warn(f"{word}: it is open: its run has not ended, or another command is at work on it")
    except BranchStorageError as error:
        missing = not os.path.lexists(path)
        warn(f"there is no branch {word}; `sandlock branches` lists them" if missing else str(error))
    return None


def find_branch(word: str, storage: str | None) -> str:
    """Return the path of the branch that `word` means: a name or what begins only one, a path, or `last`.

    Raises:
        BranchError: it begins several names, or there is no last one here.

    """
    if "/" in word:
        return os.path.realpath(word)
    found = list_preserved(storage)
    if word == "last":
        here = os.path.realpath(".")
        mine = [branch.path for branch in found if is_below(branch.lower, here)]
        if not mine:
            raise BranchError(f"no branch over {here}, or a folder in it, waits; `sandlock branches` lists all")
        return mine[-1]
    begun = [branch.path for branch in found if word and os.path.basename(branch.path).startswith(word)]
    if len(begun) > 1 and all(os.path.basename(path) != word for path in begun):
        raise BranchError(f"{len(begun)} branches begin with {word}: {', '.join(map(os.path.basename, begun))}")
    if len(begun) == 1:
        return begun[0]
    return os.path.join(storage if storage is not None else default_storage(), word)


def inside(path: str, branch: Branch) -> str:
    """Return `path` as the branch names it: as `diff` prints it; an absolute one has to be below its folder."""
    if not os.path.isabs(path):
        return os.path.normpath(path)
    folder, name = os.path.split(os.path.normpath(path))
    found = branch.inside(os.fsencode(os.path.join(os.path.realpath(folder), name)))
    if found is None:
        raise BranchError(f"{path} is not below {branch.lower}")
    return os.fsdecode(found) or "."


def check_named(branch: Branch, paths: list[str]) -> None:
    """Refuse a name that no change is at or below: it is a slip, and half of what was meant would be done."""
    changed = [change.path for change in branch.changes(digests=False)] if paths else []
    for path in paths:
        if not any(is_below(name, path) for name in changed):
            raise BranchError(f"nothing was changed at {path}")
