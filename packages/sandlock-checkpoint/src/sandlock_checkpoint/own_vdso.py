"""The vDSO image of this kernel, as this process itself has it."""

from __future__ import annotations

import hashlib
import os

from sandlock_sys import procmem
from sandlock_sys.proc import read_maps

__all__ = ["own_vdso_digest"]


def own_vdso_digest() -> str:
    """Return the sha256 of the [vdso] image in hex, "" where the kernel maps none.

    All processes of one ABI have the same image. This process's own is taken because a captured one's may have been
    patched by a supervisor.
    """
    for mapping in read_maps(os.getpid()):
        if mapping.name == b"[vdso]":
            return hashlib.sha256(procmem.read(os.getpid(), mapping.start, mapping.size)).hexdigest()
    return ""
