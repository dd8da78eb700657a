"""What can go wrong with a sandbox, as exceptions. The refused system call is the `__cause__`."""

from __future__ import annotations

from errno import ENOENT

from sandlock_policy.errors import SandlockError

__all__ = [
    "ChildError",
    "CommandNotFoundError",
    "CommandNotRunnableError",
    "ConfinementError",
    "LandlockUnavailableError",
    "NotRunningError",
    "SandboxBusyError",
    "SandboxError",
    "SeccompError",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_runtime.result import Result


class SandboxError(SandlockError, RuntimeError):
    """A sandbox could not do what was asked of it."""


class SandboxBusyError(SandboxError):
    """The object has a live process already; use another `Sandbox` for another process."""


class NotRunningError(SandboxError):
    """The call needs a live process, and there is none."""


class ConfinementError(SandboxError):
    """The sandbox could not be set up, so nothing was started.

    Attributes:
        step: what failed: "landlock", "seccomp", "mount", "cwd", ...
        errno: the kernel's error number, or 0 where no call failed.
        remedy: what to do about it, or "".

    """

    def __init__(self, step: str, reason: str, errno: int = 0, remedy: str = "") -> None:
        super().__init__(f"the sandbox could not be set up: {step}: {reason}" + (f"; {remedy}" if remedy else ""))
        self.step = step
        self.errno = errno
        self.remedy = remedy


class LandlockUnavailableError(ConfinementError):
    """The kernel does not offer Landlock, or not the rights that the policy needs."""


class SeccompError(ConfinementError):
    """The seccomp filter could not be installed."""


class CommandNotFoundError(SandboxError, FileNotFoundError):
    """The command does not exist, as seen with the sandbox's PATH.

    Attributes:
        errno: ENOENT.
        filename: the command.

    """

    def __init__(self, command: str, reason: str) -> None:
        # RuntimeError comes first among the bases and would leave OSError's attributes empty.
        OSError.__init__(self, ENOENT, reason, command)

    def __str__(self) -> str:
        """Name the command and the reason."""
        return f"{self.filename}: {self.strerror}"

    def __reduce__(self) -> tuple[type[CommandNotFoundError], tuple[object, ...]]:
        """Pickle what the constructor takes."""
        return type(self), (self.filename, self.strerror)


class CommandNotRunnableError(SandboxError, PermissionError):
    """The command exists but cannot be executed: no permission, a directory, not a program, or outside every grant.

    Attributes:
        errno: EACCES, ENOEXEC, ELIBBAD, ...
        filename: the command.

    """

    def __init__(self, errno: int, command: str, reason: str) -> None:
        OSError.__init__(self, errno, reason, command)  # as above

    def __str__(self) -> str:
        """Name the command and the reason."""
        return f"{self.filename}: {self.strerror}"

    def __reduce__(self) -> tuple[type[CommandNotRunnableError], tuple[object, ...]]:
        """Pickle what the constructor takes."""
        return type(self), (self.errno, self.filename, self.strerror)


class ChildError(SandboxError):
    """`Result.check()` was called on a run that did not succeed.

    Attributes:
        result: the whole `Result`.

    """

    def __init__(self, result: Result) -> None:
        ended = f"exit code {result.exit_code}" if result.signal is None else f"signal {result.signal}"
        tail = result.stderr[-400:].decode("utf-8", "backslashreplace").strip() if result.stderr else ""
        super().__init__(f"the program did not succeed: {result.reason}, {ended}" + (f": {tail}" if tail else ""))
        self.result = result
