"""What a run with a branch left to be decided: look, then apply all or some of it, or drop it."""

from __future__ import annotations

from sandlock_runtime.errors import NotRunningError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandlock_cow import Change
    from sandlock_runtime.branching import RunBranch

__all__ = ["Deferred"]


class Deferred:
    """The part of a `Sandbox` that is about the branch of its latest run."""

    _branch: RunBranch | None

    @property
    def pending(self) -> bool:
        """Whether the branch of the latest run waits for `commit` or `abort` (on_exit or on_error is "defer")."""
        return self._branch is not None and self._branch.pending

    @property
    def upper_dir(self) -> str | None:
        """The folder on the host that holds what the pending branch changed (overlayfs's format), or None."""
        return self._branch.branch.upper if self._branch is not None and self._branch.pending else None

    def changes(self) -> tuple[Change, ...]:
        """Return what a commit of the pending branch would change; NotRunningError when none is pending."""
        return self._pending().branch.changes()

    def commit(self, paths: Iterable[str] | None = None) -> tuple[Change, ...]:
        """Apply the pending branch to the real tree, or only `paths` and what is below them; return what was applied.

        Files that run later outside (hooks, start-up files, CI definitions) are refused unless they are named.

        Raises:
            BranchConflictError: the real tree changed meanwhile; nothing was applied, and the branch is still pending.
            NotRunningError: none is pending.

        """
        pending = self._pending()
        applied = pending.branch.commit(paths)
        pending.pending = paths is not None
        return applied

    def abort(self) -> None:
        """Drop the pending branch; NotRunningError when none is pending."""
        self._pending().drop()

    def _pending(self) -> RunBranch:
        branch = self._branch
        if branch is None or not branch.pending:
            raise NotRunningError('no branch is pending: on_exit="defer" lets one wait for a decision')
        return branch
