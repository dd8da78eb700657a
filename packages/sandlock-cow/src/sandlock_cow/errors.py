"""The exceptions of this package. What a confined program is told is a plain OSError with the kernel's errno."""

from __future__ import annotations

import errno
import os

from sandlock_arch.errors import SandboxError

__all__ = [
    "BranchBusyError",
    "BranchConflictError",
    "BranchError",
    "BranchLateExecutionError",
    "BranchQuotaError",
    "BranchStorageError",
    "Conflict",
]


class BranchError(SandboxError):
    """Something about a branch as a whole went wrong; the base of all exceptions here."""


class BranchStorageError(BranchError):
    """The storage cannot be used: not there, not ours, readable by others, inside the lower directory or around it.

    Attributes:
        path: what could not be used.
        reason: why, a lower-case fact.

    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[BranchStorageError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class BranchBusyError(BranchError):
    """The branch is open already, in this process or in another one.

    Attributes:
        path: the branch's folder in the storage.

    """

    def __init__(self, path: str) -> None:
        super().__init__(f"the branch {path} is open already: close it there first")
        self.path = path

    def __reduce__(self) -> tuple[type[BranchBusyError], tuple[str]]:
        return type(self), (self.path,)


class BranchQuotaError(BranchError, OSError):
    """The branch holds as many bytes as it may. To a program it is ENOSPC, so `.errno` is that.

    Attributes:
        used: bytes in the branch.
        wanted: bytes that would have been added.
        quota: bytes that it may hold.

    """

    def __init__(self, used: int, wanted: int, quota: int) -> None:
        OSError.__init__(self, errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.used = used
        self.wanted = wanted
        self.quota = quota

    def __str__(self) -> str:
        return f"the branch holds {self.used} bytes and may hold {self.quota}: {self.wanted} more do not fit"

    def __reduce__(self) -> tuple[type[BranchQuotaError], tuple[int, int, int]]:
        return type(self), (self.used, self.wanted, self.quota)


class Conflict(tuple[str, str]):
    """One path that changed outside since the branch first touched it: `(path, reason)`."""

    __slots__ = ()

    @property
    def path(self) -> str:
        """The path inside the branch, lossless (surrogateescape)."""
        return self[0]

    @property
    def reason(self) -> str:
        """What happened to it, a lower-case fact."""
        return self[1]


class BranchConflictError(BranchError):
    """The real tree changed under the branch; nothing was applied.

    Attributes:
        conflicts: every path that changed, with the reason.

    """

    def __init__(self, conflicts: tuple[Conflict, ...]) -> None:
        shown = "; ".join(f"{path!r} {reason}" for path, reason in conflicts[:5])
        more = f"; and {len(conflicts) - 5} more" if len(conflicts) > 5 else ""
        super().__init__(f"the tree changed meanwhile, nothing was applied: {shown}{more}")
        self.conflicts = conflicts

    def __reduce__(self) -> tuple[type[BranchConflictError], tuple[tuple[Conflict, ...]]]:
        return type(self), (self.conflicts,)


class BranchLateExecutionError(BranchError):
    """The commit would change files that run later outside the sandbox, and they were not named; nothing was applied.

    Attributes:
        paths: those files, each with the reason of its mark.

    """

    def __init__(self, paths: tuple[tuple[str, str], ...]) -> None:
        shown = "; ".join(f"{path!r} ({reason})" for path, reason in paths[:5])
        more = f"; and {len(paths) - 5} more" if len(paths) > 5 else ""
        super().__init__(f"these run later outside and must be named to be applied: {shown}{more}")
        self.paths = paths

    def __reduce__(self) -> tuple[type[BranchLateExecutionError], tuple[tuple[tuple[str, str], ...]]]:
        return type(self), (self.paths,)
