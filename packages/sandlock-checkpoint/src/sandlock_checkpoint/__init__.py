"""Capture, save, load and restore a running process, without privileges."""

from sandlock_checkpoint.capture.drive import capture
from sandlock_checkpoint.capture.tracking import Tracker
from sandlock_checkpoint.errors import CaptureError, CheckpointError, ImageError, InjectionError, RestoreError
from sandlock_checkpoint.image.load import load
from sandlock_checkpoint.memory import (
    Area,
    FileIdentity,
    Location,
    Mapping,
    MappingKind,
    MemorySource,
    Run,
    SharedMemory,
)
from sandlock_checkpoint.model import Checkpoint, ProcessInfo, ThreadState
from sandlock_checkpoint.restore.birth import Ids
from sandlock_checkpoint.restore.drive import Restored, Spawn, restore
from sandlock_checkpoint.store import Store
from sandlock_checkpoint.terms import Leave, Scope, Unsupported

__all__ = [
    "Area",
    "CaptureError",
    "Checkpoint",
    "CheckpointError",
    "FileIdentity",
    "Ids",
    "ImageError",
    "InjectionError",
    "Leave",
    "Location",
    "Mapping",
    "MappingKind",
    "MemorySource",
    "ProcessInfo",
    "RestoreError",
    "Restored",
    "Run",
    "Scope",
    "SharedMemory",
    "Spawn",
    "Store",
    "ThreadState",
    "Tracker",
    "Unsupported",
    "capture",
    "load",
    "restore",
]
