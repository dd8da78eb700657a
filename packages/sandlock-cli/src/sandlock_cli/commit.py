"""`sandlock commit`: apply the changes of a branch to the real tree, all or some."""

from __future__ import annotations

import json

from sandlock_cli.branches import check_named, inside, open_branch
from sandlock_cli.changes import change_lines, change_records
from sandlock_cli.failure import warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.progress import Bar
from sandlock_cli.verbs import options_of
from sandlock_cow import Branch, BranchConflictError, BranchError, BranchLateExecutionError
from sandlock_runtime.images.hold import is_image_root

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Apply the changes: 0, or 1 where nothing was applied, which is told with the reason."""
    values, rest = parse(words, table(options_of("commit")), "commit")
    if values.get("help"):
        return print_verb("commit")
    if not rest:
        raise UsageError("commit needs a branch", "commit")
    branch = open_branch(rest[0], values.get("storage"))
    if branch is None:
        return 1
    try:
        _refuse_image(branch)
        named = [inside(path, branch) for path in rest[1:]]
        paths = None if not named or "." in named else named
        late = [inside(path, branch) for path in values.get("late", ())]
        check_named(branch, [*(paths or ()), *late])
        with Bar("of the changes", quiet=bool(values.get("quiet"))) as progress:
            applied = branch.commit(paths, allow_late=late, progress=progress)
    except BranchConflictError as error:
        warn(f"the tree was changed meanwhile, so nothing was applied; the branch is kept: {rest[0]}")
        for conflict in error.conflicts:
            warn(f"{conflict.path}: {conflict.reason}")
        return 1
    except BranchLateExecutionError as error:
        warn("nothing was applied: these would run later, outside the sandbox, and were not named with --late")
        for path, reason in error.paths:
            warn(f"{path}: {reason}")
        return 1
    except BranchError as error:
        warn(f"nothing was applied: {error}")
        return 1
    finally:
        branch.close()
    if values.get("json"):
        print(json.dumps({"schema": 1, "workdir": branch.lower, **change_records(applied)}))
    else:
        for line in change_lines(applied):
            print(line)
    return 0


def _refuse_image(branch: Branch) -> None:
    """Refuse what a killed run left over an image: that is there for all later runs, as its digest says."""
    if is_image_root(branch.lower):
        raise BranchError("it covers an unpacked image, which stays as it is: discard it")
