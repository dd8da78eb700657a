"""What became of a run, as plain values."""

from __future__ import annotations

import os

from sandlock_policy.record import record
from sandlock_runtime.errors import ChildError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from sandlock_cow import Change
    from sandlock_policy import Protection
    from sandlock_sys.guard import Report

__all__ = ["CLOSED", "Denial", "Reason", "Result", "Usage", "make_result"]


class Reason:
    """Why a run ended; the values of `Result.reason`."""

    EXITED = "EXITED"  # the program ended by itself
    SIGNALED = "SIGNALED"  # a signal that nobody here sent ended it
    KILLED = "KILLED"  # Sandbox.kill, or the end of the `with` block
    TIMEOUT = "TIMEOUT"
    MEMORY = "MEMORY"  # it exceeded max_memory
    DISK = "DISK"  # it wrote past max_disk, by racing with the calls that were refused
    DENIED = "DENIED"  # the filter killed it: a foreign architecture or system call interface
    SUPERVISOR = "SUPERVISOR"  # the guard or the supervisor was lost


@record(frozen=True, slots=True)
class Usage:
    """What a run cost.

    Attributes:
        wall_s: seconds from launch to the end of the last process.
        user_s: user cpu seconds of the whole tree.
        system_s: system cpu seconds of the whole tree.
        peak_bytes: largest resident size of a single process; None when all that the kernel tells is that it stayed
            below the host's own (the first process begins in the host's memory, and its peak counts for both).
        processes: how many processes ended as children of the guard: the first, and those that were orphans or ended
            with the run; not those that the program waited for itself. In a pid namespace (a granted /proc, or
            Landlock before ABI 6) orphans are the children of its init, which tells their time and no number: 1.
        notifications: system calls that the supervisor answered.

    """

    wall_s: float = 0.0
    user_s: float = 0.0
    system_s: float = 0.0
    peak_bytes: int | None = None
    processes: int = 0
    notifications: int = 0


@record(frozen=True, slots=True)
class Denial:
    """What the supervisor refused.

    Attributes:
        syscall: name of the call, or `http` for a request that the proxy answered itself.
        errno: what it failed with; 0 for a request.
        reason: why, for a person. Text in it may come from the program: escape it before a terminal sees it.
        target: the path or endpoint, or "".
        flag: the command line's option that would allow it, or "".
        count: how often it happened.

    """

    syscall: str
    errno: int
    reason: str
    target: str = ""
    flag: str = ""
    count: int = 1


@record(frozen=True, slots=True)
class Result:
    """What became of a run.

    Attributes:
        success: the program exited with 0, by itself.
        exit_code: its exit code; -1 when a signal ended it. A program that was told to end may have exited with 0, and
            `success` is False then: `reason` tells.
        stdout: what it wrote there, where that was captured.
        stderr: likewise.
        reason: one of `Reason`.
        signal: the number of the signal that ended it, or None.
        stdout_dropped: bytes past `max_output` that were counted and dropped.
        stderr_dropped: likewise.
        changes: what the program changed below `workdir`, as `sandlock_cow.Change`.
        branch: where the branch with these changes lies, when it is kept or waits for a decision; else "".
        denials: what was refused, where the supervisor saw it; the kernel alone does not tell.
        protections: what was enforced, and by which layer.
        usage: what it cost.
        error: a sentence about what went wrong with the sandbox itself, or "".

    """

    success: bool
    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""
    reason: str = Reason.EXITED
    signal: int | None = None
    stdout_dropped: int = 0
    stderr_dropped: int = 0
    changes: tuple[Change, ...] = ()
    branch: str = ""
    denials: tuple[Denial, ...] = ()
    protections: tuple[Protection, ...] = ()
    usage: Usage = Usage()
    error: str = ""

    def check(self) -> Self:
        """Return the result itself, or raise `ChildError` when the run was not a success."""
        if not self.success:
            raise ChildError(self)
        return self


CLOSED = "CLOSED"
"""A cause for `make_result`: what was left was killed, and only a program that had not ended by itself was KILLED."""
_SIGSYS = 31  # what a filter's KILL_PROCESS ends a process with, on every architecture here


def make_result(
    report: Report | None,
    wall_s: float,
    protections: tuple[Protection, ...],
    *,
    cause: str = "",
    output: tuple[bytes, bytes] = (b"", b""),
    dropped: tuple[int, int] = (0, 0),
    denials: tuple[Denial, ...] = (),
    notifications: int = 0,
) -> Result:
    """Put the guard's report and what the host knows together; `cause` is a Reason that the host brought about."""
    killed = Reason.KILLED if cause == CLOSED else cause
    if report is None:
        reason, code, signal, usage = killed or Reason.SUPERVISOR, -1, None, Usage(wall_s, notifications=notifications)
        error = "" if cause else "the guard of this sandbox was killed from outside; the program went with it"
    else:
        code = os.waitstatus_to_exitcode(report.status)
        signal = -code if code < 0 else None
        ended = Reason.EXITED if signal is None else Reason.DENIED if signal == _SIGSYS else Reason.SIGNALED
        reason = killed if killed and not (cause == CLOSED and ended == Reason.EXITED) else ended
        code = max(code, -1)
        error = ""
        peak = report.peak_kib * 1024 or None
        usage = Usage(wall_s, report.user_us / 1e6, report.system_us / 1e6, peak, report.reaped, notifications)
    return Result(
        success=reason == Reason.EXITED and code == 0,
        exit_code=code,
        stdout=output[0],
        stderr=output[1],
        reason=reason,
        signal=signal,
        stdout_dropped=dropped[0],
        stderr_dropped=dropped[1],
        denials=denials,
        protections=protections,
        usage=usage,
        error=error,
    )
