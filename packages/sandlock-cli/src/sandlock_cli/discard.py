"""`sandlock discard`: drop branches; the real tree stays as it is."""

from __future__ import annotations

import os

from sandlock_cli.branches import find_branch
from sandlock_cli.failure import warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.verbs import options_of
from sandlock_cow import BranchBusyError, BranchError, list_preserved

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Drop the branches: 0, or 1 where one is not there or in use."""
    values, rest = parse(words, table(options_of("discard")), "discard")
    if values.get("help"):
        return print_verb("discard")
    if not rest:
        raise UsageError("discard needs a branch", "discard")
    return max([_discard(word, values.get("storage")) for word in rest])


def _discard(word: str, storage: str | None) -> int:
    try:
        path = find_branch(word, storage)
        branch = next((one for one in list_preserved(os.path.dirname(path)) if one.path == path), None)
        if branch is None:
            warn(f"there is no branch {word}, or it is open; `sandlock branches` lists them")
            return 1
        branch.discard()
    except BranchBusyError:
        warn(f"{word}: it is open: its run has not ended, or another command is at work on it")
        return 1
    except BranchError as error:
        warn(str(error))
        return 1
    return 0
