"""Per-architecture facts and encoders: syscall tables, register layouts, instructions, vDSO stubs."""

from __future__ import annotations

from sandlock_arch.registry import get, names, native, native_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_arch.model import Architecture

__all__ = ["Architecture", "get", "names", "native", "native_name"]


def __getattr__(name: str) -> object:
    """Load the model on first use: a launch that finds its filter compiled needs only the name of the machine."""
    if name == "Architecture":
        from sandlock_arch.model import Architecture

        return Architecture
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
