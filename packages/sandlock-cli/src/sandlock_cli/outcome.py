"""What is told after a run: the changes of a dry one, where a branch waits, what was denied."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

from sandlock_cli.failure import warn
from sandlock_cli.hints import hints_after

if TYPE_CHECKING:
    from sandlock_policy import Plan, Policy
    from sandlock_runtime import Result

__all__ = ["branch_lines", "is_implicit", "record_outcome", "tell_outcome"]


def tell_outcome(
    result: Result, plan: Plan, policy: Policy, command: list[str], own: dict[str, Any], *, failed: bool
) -> None:
    """Print the changes of a dry run on stdout, and on stderr what the caller has to know or may want to."""
    if own["dry_run"]:
        from sandlock_cli.changes import change_lines  # lazy: few runs are dry

        for line in change_lines(result.changes):
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    for line in branch_lines(result):
        warn(line)
    if failed and not own["quiet"]:
        implicit = is_implicit(own) and not own.get("interactive")  # who left a shell knows what it said
        for line in hints_after(command, plan, result, policy, implicit=implicit):
            warn(line)


def branch_lines(result: Result) -> list[str]:
    """Return what went wrong with the sandbox, and what to type about a branch that was kept."""
    lines = [result.error] if result.error else []
    if result.branch:
        from sandlock_cli.branches import branch_name  # lazy: few runs have a branch

        name = shlex.quote(branch_name(result.branch))
        late = [change.path for change in result.changes if change.late]
        lines.append(
            f"the changes ({len(result.changes)}) wait for a decision: `sandlock diff {name}` shows them "
            f"(-p: line by line), `sandlock commit {name}` applies them, `sandlock discard {name}` drops them"
        )
        if late:
            lines.append(f"{len(late)} of them would run later, outside the sandbox; to apply them, name each: "
                         f"sandlock commit --late {shlex.quote(late[0])} {name}")  # fmt: skip
    return lines


def record_outcome(result: Result) -> dict[str, Any]:
    """Return the keys of the JSON object about changes, branch and denials."""
    keys: dict[str, Any] = {"changes": [], "renames": []}
    if result.changes:
        from sandlock_cli.changes import change_records  # lazy: as above

        keys = change_records(result.changes)
    denials = [{name: getattr(one, name) for name in one.__match_args__} for one in result.denials]
    return {**keys, "branch": result.branch, "denials": denials}


def is_implicit(own: dict[str, Any]) -> bool:
    """Whether the caller named no policy."""
    return not (own["preset"] or own["profile"] or own["profile_file"])
