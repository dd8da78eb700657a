"""`sandlock run --dry-run`: the policy that lets nothing of what the program changes stay."""

from __future__ import annotations

import os
from stat import S_ISCHR
from typing import Any

from sandlock_policy import Policy
from sandlock_policy.errors import PolicyError, Problem
from sandlock_runtime import host_features
from sandlock_runtime.audit import write_grants
from sandlock_runtime.prepare import make_context, plan_for

__all__ = ["dry_policy", "split_branch"]


_BRANCH = ("workdir", "fs_storage", "max_disk", "on_exit", "on_error")


def split_branch(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options about the branch, and the others: a policy without a workdir would refuse the former."""
    branch = {name: value for name, value in values.items() if name in _BRANCH}
    return branch, {name: value for name, value in values.items() if name not in _BRANCH}


def dry_policy(policy: Policy, branch: dict[str, Any]) -> Policy:
    """Return `policy` with a branch over its workdir, or else the current directory, that is dropped at the end.

    Arguments:
        policy: as it would hold otherwise.
        branch: fields about the branch that stand instead of its own; what is to become of it counts for nothing.

    Raises:
        PolicyError: it also grants writing elsewhere, which would be real.

    """
    fields: Any = {"workdir": policy.workdir or ".", **branch, "on_exit": "abort", "on_error": "abort"}
    dry = policy.replace(**fields)
    context, _ = make_context(dry, None)
    problems = [
        Problem("filesystem.write", path, "would be written for real, and --dry-run is to change nothing",
                "leave it out, or make it part of --workdir")
        for path in write_grants(plan_for(dry, context, host_features()))
        if not _is_device(path)
    ]  # fmt: skip
    if problems:
        raise PolicyError(problems)
    return dry


def _is_device(path: str) -> bool:
    """Tell whether `path` is a device such as /dev/null; what is not there cannot be written either."""
    try:
        return S_ISCHR(os.stat(path).st_mode)
    except FileNotFoundError:
        return True
