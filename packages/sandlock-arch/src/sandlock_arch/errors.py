"""The errors of sandlock-arch."""

from __future__ import annotations

__all__ = ["ArchError", "EncodeError", "LayoutError", "StubError", "UnknownArchitectureError", "VdsoError"]


class ArchError(Exception):
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
