"""Sandbox: launch a confined program, live with it, report its result."""

from sandlock_runtime.errors import (
    ChildError,
    CommandNotFoundError,
    CommandNotRunnableError,
    ConfinementError,
    LandlockUnavailableError,
    NotRunningError,
    SandboxBusyError,
    SandboxError,
    SeccompError,
)
from sandlock_runtime.features import host_features, override
from sandlock_runtime.process import Process
from sandlock_runtime.result import Reason, Result, Usage
from sandlock_runtime.sandbox import Sandbox
from sandlock_runtime.streams import DEVNULL, INHERIT, PIPE, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_runtime.confine import confine

__all__ = [
    "DEVNULL",
    "INHERIT",
    "PIPE",
    "STDOUT",
    "ChildError",
    "CommandNotFoundError",
    "CommandNotRunnableError",
    "ConfinementError",
    "LandlockUnavailableError",
    "NotRunningError",
    "Process",
    "Reason",
    "Result",
    "Sandbox",
    "SandboxBusyError",
    "SandboxError",
    "SeccompError",
    "Usage",
    "confine",
    "host_features",
    "override",
]


def __getattr__(name: str) -> object:
    """Load `confine` on first use: it takes modules that a launch does not."""
    if name == "confine":
        from sandlock_runtime.confine import confine

        return confine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
