"""A copy-on-write branch over a directory: changes, commit, discard, quota."""

from __future__ import annotations

from sandlock_cow.branch import Branch
from sandlock_cow.errors import (
    BranchBusyError,
    BranchConflictError,
    BranchError,
    BranchLateExecutionError,
    BranchQuotaError,
    BranchStorageError,
    Conflict,
)
from sandlock_cow.model import Change, Entry, Found, Kind, Layer, Name, OpenAt, State, Usage
from sandlock_cow.patches import patch
from sandlock_cow.preserved import Preserved, list_preserved
from sandlock_cow.renames import renames

__all__ = [
    "Branch",
    "BranchBusyError",
    "BranchConflictError",
    "BranchError",
    "BranchLateExecutionError",
    "BranchQuotaError",
    "BranchStorageError",
    "Change",
    "Conflict",
    "Entry",
    "Found",
    "Kind",
    "Layer",
    "Name",
    "OpenAt",
    "Preserved",
    "State",
    "Usage",
    "list_preserved",
    "patch",
    "renames",
]
