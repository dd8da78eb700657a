"""Per-architecture facts and encoders: syscall tables, register layouts, instructions, vDSO stubs."""

from __future__ import annotations

from sandlock_arch.model import Architecture
from sandlock_arch.registry import get, names, native

__all__ = ["Architecture", "get", "names", "native"]
