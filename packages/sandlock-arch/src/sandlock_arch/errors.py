"""The errors of sandlock-arch, and the two that those of every package derive from.

These stand here because this is the one package that all who raise them may import: it is pure, and below all of them.
"""

from __future__ import annotations

__all__ = [
    "ArchError",
    "EncodeError",
    "LayoutError",
    "SandboxError",
    "SandlockError",
    "StubError",
    "UnknownArchitectureError",
    "VdsoError",
]


class SandlockError(Exception):
    """Everything that this project raises on purpose derives from this class, but for a refused system call.

    That one is `sandlock_sys.errors.SyscallError`, an OSError; it is the `__cause__` where another error tells what it
    means.
    """


class SandboxError(SandlockError, RuntimeError):
    """A sandbox could not do what was asked of it; its branch and its checkpoints are part of it."""


class ArchError(SandlockError):
    """Base class of every error this package raises on purpose."""


class UnknownArchitectureError(ArchError, LookupError):
    """No folder of this package describes the architecture `name`."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"no support for architecture {name!r} (there is: {', '.join(known)})")
        self.name = name
        self.known = known


class EncodeError(ArchError, ValueError):
    """An operand does not fit the instruction: out of range, or not aligned."""


class LayoutError(ArchError, ValueError):
    """Register bytes or names that do not match the layout they are said to have."""


class StubError(ArchError, ValueError):
    """A stub operation that this architecture has no system call for."""


class VdsoError(ArchError, ValueError):
    """A vDSO image that cannot be read, or not patched as asked; `entry` names the function, if one is at fault."""

    def __init__(self, message: str, entry: str = "") -> None:
        super().__init__(f"{entry}: {message}" if entry else message)
        self.entry = entry
