"""Find an architecture by name, or the one this process runs on. LEAN: see model.py."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_arch.model import Architecture

__all__ = ["get", "names", "native", "native_name"]

# Adding an architecture is one folder and one name here.
_NAMES = ("x86_64", "aarch64", "riscv64")


def names() -> tuple[str, ...]:
    """Return the names of all described architectures, as uname(2) spells them."""
    return _NAMES


def get(name: str) -> Architecture:
    """Return the architecture called `name`, always the same object; raise `UnknownArchitectureError`."""
    if name not in _NAMES:
        # Imported here because no good launch ever needs it.
        from sandlock_arch.errors import UnknownArchitectureError

        raise UnknownArchitectureError(name, _NAMES)
    # importlib is not loaded by every interpreter start; __import__ always is.
    architecture: Architecture = __import__(f"sandlock_arch.{name}.arch", fromlist=("ARCHITECTURE",)).ARCHITECTURE
    return architecture


def native() -> Architecture:
    """Return the architecture of this process; raise `UnknownArchitectureError`."""
    return get(native_name())


def native_name() -> str:
    """Return the name of this process's architecture, described here or not; loads nothing.

    The interpreter's own build triplet is asked first: under personality(PER_LINUX32) uname(2) says i686 to a 64-bit
    process, and under qemu-user it may name the host.
    """
    triplet: str = getattr(sys.implementation, "_multiarch", "")
    name = triplet.partition("-")[0] or os.uname().machine
    # i386 on x86_64, x32, armv8l: their system calls are not those of the 64-bit table.
    return name if sys.maxsize >= 1 << 32 else f"32-bit {name}"
