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

__all__ = ["branch_name", "main", "open_branch"]


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
    from sandlock_cow.storage import default_storage  # the place that a name is looked for in

    home = os.path.realpath(storage if storage is not None else default_storage())
    return os.path.basename(path) if os.path.dirname(path) == home and storage is None else path


def open_branch(word: str, storage: str | None) -> Branch | None:
    """Open the branch that `word` means, a name in the storage or a path; None where that fails, which is told.

    An interrupted commit is finished or undone first.
    """
    path = word
    if "/" not in word:
        from sandlock_cow.storage import default_storage  # as above

        path = os.path.join(storage if storage is not None else default_storage(), word)
    try:
        return Branch.resume(path)
    except BranchBusyError:
        warn(f"{word}: it is open: its run has not ended, or another command is at work on it")
    except BranchStorageError as error:
        missing = not os.path.lexists(path)
        warn(f"there is no branch {word}; `sandlock branches` lists them" if missing else str(error))
    return None
