"""`sandlock diff`: what a commit of a branch would change."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from sandlock_cli.branches import check_named, inside, open_branch
from sandlock_cli.changes import change_lines, change_records
from sandlock_cli.failure import printable, warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.verbs import options_of
from sandlock_cow import BranchError, patch
from sandlock_policy.paths import is_below

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandlock_cow import Branch, Change

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Print the changes: 0, or 1 where there is no such branch, or nothing changed where a path says."""
    values, rest = parse(words, table(options_of("diff")), "diff")
    if values.get("help"):
        return print_verb("diff")
    if not rest:
        raise UsageError("diff needs a branch: a name, or `last`", "diff")
    if values.get("patch") and values.get("json"):
        raise UsageError("--patch is for people, and --json for programs: choose one", "diff")
    branch = open_branch(rest[0], values.get("storage"))
    if branch is None:
        return 1
    try:
        paths = [inside(path, branch) for path in rest[1:]]
        check_named(branch, [path for path in paths if path != "."])
        changes = [change for change in branch.changes() if _wanted(change, paths)]
        if values.get("json"):
            print(json.dumps({"schema": 1, "branch": branch.path, "workdir": branch.lower, **change_records(changes)}))
        elif values.get("patch"):
            _print_patch(branch, changes)
        else:
            for line in change_lines(changes):
                print(line)
    except BranchError as error:
        warn(str(error))
        return 1
    finally:
        branch.close()  # it stays where it is
    return 0


def _wanted(change: Change, paths: list[str]) -> bool:
    return not paths or any(path == "." or is_below(change.path, path) for path in paths)


def _print_patch(branch: Branch, changes: Iterable[Change]) -> None:
    """Print a patch; what has no place in one, and what runs later, stands before it, where `git apply` skips it."""
    for change in changes:
        sides = [side.kind.value for side in (change.before, change.after) if side is not None]
        if change.late or not {"file", "symlink"}.issuperset(sides):
            print(f"# {change_lines([change])[0]}")
    sys.stdout.flush()
    if not sys.stdout.isatty():
        sys.stdout.buffer.writelines(patch(branch, changes))
        sys.stdout.buffer.flush()
        return
    # Safety: a terminal obeys what it is shown, and this text is the program's.
    for line in patch(branch, changes):
        for part in line.decode(errors="surrogateescape").removesuffix("\n").split("\n"):
            print("\t".join(map(printable, part.split("\t"))))
