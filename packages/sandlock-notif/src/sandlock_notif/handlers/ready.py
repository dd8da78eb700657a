"""Handlers that are ready to use: calls that are written down, calls that are refused.

None of them decides by a path. Who wants a path refused names it in the policy (`fs_denied`) or calls
`PolicyContext.deny_path`: there it is the file that counts, and not a name that the program can change behind the look.
"""

from __future__ import annotations

import os
from errno import EPERM
from typing import TYPE_CHECKING, NamedTuple

from sandlock_arch import native
from sandlock_notif.handlers.user import NotifAction, has_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif.handlers.user import HandlerCtx, UserHandler

__all__ = ["CallRecord", "deny_calls", "log_calls"]


class CallRecord(NamedTuple):
    """One system call, as it was when a handler looked.

    Attributes:
        syscall: its name.
        pid: the calling thread's id, as the host sees it.
        args: six arguments, unsigned 64-bit.
        path: what its path argument pointed to then, for the record only: the program can change it; None without one.

    """

    syscall: str
    pid: int
    args: tuple[int, ...]
    path: str | None


def log_calls(*calls: str, to: Callable[[CallRecord], object]) -> list[tuple[str | int, UserHandler]]:
    """Return handlers that tell `to` about each of `calls` before it goes on: `Sandbox(handlers=log_calls(...))`.

    `to` runs in threads of the sandbox's own, several at once; while it runs the call waits, and should it raise, the
    call is refused.
    """

    def log(ctx: HandlerCtx) -> NotifAction:
        name = native().name_of(ctx.syscall_nr) or str(ctx.syscall_nr)
        path = None
        if has_path(name):
            try:
                path = os.fsdecode(ctx.read_path())
            except OSError:  # no path there: the kernel will say so too
                path = None
        to(CallRecord(name, ctx.pid, ctx.args, path))
        return NotifAction.continue_()

    return [(call, log) for call in calls]


def deny_calls(*calls: str, errno: int = EPERM) -> list[tuple[str | int, UserHandler]]:
    """Return handlers that let each of `calls` fail with `errno`, and the result say so (`Result.denials`).

    The policy's `extra_deny_syscalls` costs less, and tells nobody.
    """
    answer = NotifAction.errno(errno)
    return [(call, lambda _: answer) for call in calls]
