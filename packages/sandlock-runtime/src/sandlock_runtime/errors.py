"""What can go wrong with a sandbox, as exceptions. The refused system call is the `__cause__`."""

from __future__ import annotations

from errno import ENOENT

from sandlock_arch.errors import SandboxError, SandlockError

__all__ = [
    "ChildError",
    "CommandNotFoundError",
    "CommandNotRunnableError",
    "ConfinementError",
    "ForkError",
    "LandlockUnavailableError",
    "MemoryProtectError",
    "NotRunningError",
    "NotifError",
    "SandboxBusyError",
    "SandboxError",
    "SeccompError",
    "TaskError",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_runtime.result import Result


class SandboxBusyError(SandboxError):
    """The object has a live process already; use another `Sandbox` for another process."""


class NotRunningError(SandboxError):
    """The call needs a live process, and there is none."""


class ConfinementError(SandboxError):
    """The sandbox could not be set up, so nothing was started.

    Attributes:
        step: what failed: "landlock", "seccomp", "mount", "cwd", ...
        reason: why, a lower-case fact.
        errno: the kernel's error number, or 0 where no call failed.
        remedy: what to do about it, or "".

    """

    def __init__(self, step: str, reason: str, errno: int = 0, remedy: str = "") -> None:
        super().__init__(f"the sandbox could not be set up: {step}: {reason}" + (f"; {remedy}" if remedy else ""))
        self.step = step
        self.reason = reason
        self.errno = errno
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[ConfinementError], tuple[str, str, int, str]]:
        """Pickle what the constructor takes."""
        return type(self), (self.step, self.reason, self.errno, self.remedy)


class LandlockUnavailableError(ConfinementError):
    """The kernel does not offer Landlock, or not the rights that the policy needs."""


class SeccompError(ConfinementError):
    """The seccomp filter could not be installed."""


class NotifError(ConfinementError):
    """The supervisor could not be given its listener: the kernel has none, or a sandbox around this one holds it."""


class ForkError(SandboxError):
    """A template or its clones could not be made, or clones that were needed did not succeed.

    Attributes:
        clones: the numbers of the clones concerned, or () where it is the template.

    """

    def __init__(self, reason: str, clones: tuple[int, ...] = ()) -> None:
        super().__init__(reason)
        self.clones = clones

    def __reduce__(self) -> tuple[type[ForkError], tuple[str, tuple[int, ...]]]:
        """Pickle what the constructor takes."""
        return type(self), (self.args[0], self.clones)


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

    def __reduce__(self) -> tuple[type[ChildError], tuple[Result]]:
        """Pickle what the constructor takes."""
        return type(self), (self.result,)


class MemoryProtectError(SandlockError):
    """Never raised here: programs that were written for the Rust SDK of the same names may catch it."""


class TaskError(SandboxError):
    """A task raised something that is no builtin exception, or its worker answered what is no answer.

    Attributes:
        kind: name of the class inside, with its module, or "" for the latter.
        traceback: the traceback inside, as text; the task's word, like the message.

    """

    def __init__(self, kind: str, text: str, traceback: str = "") -> None:
        super().__init__(f"{kind}: {text}" if kind else text)
        self.kind = kind
        self.text = text
        self.traceback = traceback

    def __reduce__(self) -> tuple[type[TaskError], tuple[str, str, str]]:
        """Pickle what the constructor takes."""
        return type(self), (self.kind, self.text, self.traceback)
