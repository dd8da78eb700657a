"""Sandbox: launch a confined program, live with it, report its result.

Names are loaded on first use: the command needs the launch, and not what the library puts on top of it.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_runtime.confine import confine
    from sandlock_runtime.errors import (
        ChildError,
        CommandNotFoundError,
        CommandNotRunnableError,
        ConfinementError,
        ForkError,
        LandlockUnavailableError,
        NotifError,
        NotRunningError,
        SandboxBusyError,
        SandboxError,
        SeccompError,
        TaskError,
    )
    from sandlock_runtime.features import host_features, override
    from sandlock_runtime.process import Process
    from sandlock_runtime.result import Reason, Result, Usage
    from sandlock_runtime.sandbox import Sandbox
    from sandlock_runtime.streams import DEVNULL, INHERIT, PIPE, STDOUT

__all__ = [
    "DEVNULL",
    "INHERIT",
    "PIPE",
    "STDOUT",
    "ChildError",
    "CommandNotFoundError",
    "CommandNotRunnableError",
    "ConfinementError",
    "ForkError",
    "LandlockUnavailableError",
    "NotRunningError",
    "NotifError",
    "Process",
    "Reason",
    "Result",
    "Sandbox",
    "SandboxBusyError",
    "SandboxError",
    "SeccompError",
    "TaskError",
    "Usage",
    "confine",
    "host_features",
    "override",
]

_SOURCES = {
    "confine": "confine",
    "errors": (
        "ChildError CommandNotFoundError CommandNotRunnableError ConfinementError ForkError "
        "LandlockUnavailableError NotifError NotRunningError SandboxBusyError SandboxError SeccompError "
        "TaskError"
    ),
    "features": "host_features override",
    "process": "Process",
    "result": "Reason Result Usage",
    "sandbox": "Sandbox",
    "streams": "DEVNULL INHERIT PIPE STDOUT",
}


if not TYPE_CHECKING:  # a type checker that saw this would take a misspelt name for a public one

    def __getattr__(name: str) -> object:
        """Load a public name on first use, and keep it."""
        import sys

        for module, names in _SOURCES.items():
            if name in names.split():
                __import__(f"{__name__}.{module}")
                value: object = getattr(sys.modules[f"{__name__}.{module}"], name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
