"""What becomes of a branch, as an enum; `Policy` takes the words as well."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["BranchAction"]


class BranchAction(StrEnum):
    """The values of `on_exit` and `on_error`."""

    COMMIT = "commit"  # apply the changes to the real tree
    ABORT = "abort"  # drop them
    KEEP = "keep"  # leave them in the storage, for `sandlock commit` or `Branch.resume`
    DEFER = "defer"  # let `Sandbox.commit` or `Sandbox.abort` decide
