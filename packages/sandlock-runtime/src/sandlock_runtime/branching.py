"""The copy-on-write branch of one run: made before the launch, settled after the end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandlock_cow import Branch, BranchError, BranchStorageError
from sandlock_policy.data.landlock import FS_WRITE_FILE
from sandlock_policy.errors import PolicyError, Problem
from sandlock_policy.paths import expand_path, is_below
from sandlock_runtime.images.hold import hold_root

if TYPE_CHECKING:
    from sandlock_policy import Context, Plan, Policy
    from sandlock_runtime.result import Result
    from sandlock_sys.spawn import SpawnRequest

__all__ = ["RunBranch", "writable_folders"]

_MAX_DIGESTED = 64 << 20  # read in well under a second; renames are told by digests


class RunBranch:
    """A branch and what is to become of it.

    Arguments:
        policy, context: of the run.
        plan: with a view, of namespaces or served, that has a branch.

    Attributes:
        branch: the branch; closed once it is committed, dropped or kept.
        pending: whether it waits for the caller's decision.

    Raises:
        PolicyError: the folder or the storage cannot have a branch, with the field.

    """

    def __init__(self, policy: Policy, plan: Plan, context: Context) -> None:
        view = plan.view or plan.served_view
        assert view is not None and view.branch is not None  # noqa: PT018, S101  # why we are here
        storage = None
        if policy.fs_storage is not None:
            storage = expand_path(policy.fs_storage, cwd=context.cwd, home=context.home, variables=context.env)
        try:
            backend = "overlay" if plan.view else "served"
            self.branch = Branch(view.branch, storage=storage, quota=policy.max_disk, backend=backend)
        except BranchStorageError as error:
            ours = os.path.realpath(view.branch) == os.path.realpath(error.path)
            field = "filesystem.workdir" if ours else "filesystem.storage"
            raise PolicyError([Problem(field, error.path, error.reason, "name another folder")]) from error
        self.pending = False
        self._hold = hold_root(self.branch.lower)
        self._actions = {True: policy.on_exit, False: policy.on_error}
        place = os.path.realpath(self.branch.path)
        grant = next((path for path in writable_folders(plan) if is_below(place, os.path.realpath(path))), None)
        if grant is not None:
            self.drop()
            text = f"lies below {grant}, which the program may write, so it could change the branch behind its back"
            raise PolicyError([Problem("filesystem.storage", self.branch.path, text, "name a folder elsewhere")])

    def prepare(self, request: SpawnRequest) -> None:
        """Let the launch cover the folder with the branch."""
        request.branch = (os.fsencode(self.branch.lower), self.branch.overlay_options())

    def settle(self, result: Result) -> Result:
        """Do with the branch what the policy says; return the result with what changed.

        A branch that cannot be committed is kept, and the result says where and why: nothing is lost.
        """
        action = self._actions[result.success]
        # Nobody commits what is thrown away, and the program may have left much to read, at no cost of its own.
        changes = self.branch.changes(limit=_MAX_DIGESTED if action == "abort" else None)
        kept, error = "", result.error
        if action == "commit":
            try:
                self.branch.commit()
            except (BranchError, OSError) as refused:
                kept = self.branch.keep()
                error = f"the changes were not committed: {refused}; the branch is kept in {kept}"
        elif action == "abort":
            self.drop()
        elif action == "keep":
            kept = self.branch.keep()
        else:
            self.pending = True
            kept = self.branch.path
        success = result.success and not (error and action == "commit")
        settled: Result = result.__replace__(  # type: ignore[attr-defined]  # dataclasses have it from 3.13
            success=success, changes=changes, branch=kept, error=error
        )
        return settled

    def keep(self) -> None:
        """Leave a branch that waits for a decision in the storage, for another process to decide."""
        self.pending = False
        self.branch.keep()

    def drop(self) -> None:
        """Forget a branch that no program has used, or that nobody decided about."""
        self.pending = False
        if not self.branch.closed:
            self.branch.discard()
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1


def writable_folders(plan: Plan) -> list[str]:
    """Return the host's paths below which the program may write without a branch."""
    view = plan.view or plan.served_view
    found = list(plan.writable_mounts or ())
    binds = view.binds if view is not None else ()
    found += [host for host, _, read_only in binds if not read_only]
    if plan.view is None and view is not None:
        found += [path for path, access, _ in plan.fs_rules if access & FS_WRITE_FILE]
        root, mounted = (view.root or "").rstrip("/"), {inside for _, inside, _ in binds}
        found += [root + path for path, access, _ in view.rules if access & FS_WRITE_FILE and path not in mounted]
    return found
