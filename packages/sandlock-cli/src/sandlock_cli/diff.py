"""`sandlock diff`: what a commit of a branch would change."""

from __future__ import annotations

import json

from sandlock_cli.branches import open_branch
from sandlock_cli.changes import change_lines, change_records
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.verbs import options_of

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Print the changes: 0, or 1 where there is no such branch."""
    values, rest = parse(words, table(options_of("diff")), "diff")
    if values.get("help"):
        return print_verb("diff")
    if len(rest) != 1:
        raise UsageError("diff needs one branch", "diff")
    branch = open_branch(rest[0], values.get("storage"))
    if branch is None:
        return 1
    try:
        changes = branch.changes()
    finally:
        branch.close()  # it stays where it is
    if values.get("json"):
        print(json.dumps({"schema": 1, "branch": branch.path, "workdir": branch.lower, **change_records(changes)}))
    else:
        for line in change_lines(changes):
            print(line)
    return 0
