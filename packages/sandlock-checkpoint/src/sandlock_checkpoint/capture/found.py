"""A descriptor as a capture finds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandlock_sys.proc import FdInfo, FdLink

__all__ = ["Found"]


@dataclass(frozen=True, slots=True)
class Found:
    """One descriptor, as /proc tells it: number `fd` of process `pid`, number `process` of the checkpoint."""

    pid: int
    process: int
    fd: int
    info: FdInfo
    link: FdLink
    text: bytes
    device: int
    inode: int
    rdev: int
    prefix: str

    @property
    def name(self) -> str:
        """How the descriptor is called where it cannot be captured."""
        return f"{self.prefix}fd:{self.fd}"
