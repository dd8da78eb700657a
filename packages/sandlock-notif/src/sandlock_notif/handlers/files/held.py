"""Calls that look at an fd of a branch's storage: its inode number, and the attributes that are the branch's own marks.

Every other fd is the kernel's to tell of. Safety: the verdict is on the fd alone, which is in a register, and what the
kernel says of the storage's files is no secret: who swaps the fd meanwhile is told of a number, or a mark, as it is.
"""

from __future__ import annotations

import os
from errno import EBADF, EINVAL, EPERM
from functools import partial
from typing import TYPE_CHECKING

from sandlock_cow import overlay
from sandlock_notif.action import CONTINUE, Errno, Value
from sandlock_notif.dispatch import Trap
from sandlock_notif.errors import Refusal
from sandlock_notif.fs.origin import open_of
from sandlock_notif.handlers.files.xattrs import give, name_of
from sandlock_notif.memory import write
from sandlock_sys.shortcut import Kind, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.layers.cow import CowLayer
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["Held"]

_FSTAT = Row(Kind.STAT, -1, 1, at=0)


class Held:
    """Handlers of calls that look at an fd, which a copy-on-write mount makes necessary."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def traps(self) -> list[Trap]:
        """The calls."""
        marks = "a program that copies attributes must not copy the marks of a branch"
        return [
            Trap("fstat", self.fstat, "a file of a branch keeps its number", cost="memory", row=_FSTAT),
            Trap("flistxattr", self.flistxattr, marks, cost="memory"),
            Trap("fgetxattr", self.fgetxattr, marks, cost="memory"),
        ]

    def _on(self, request: Request, act: Callable[[CowLayer, int], Outcome]) -> Outcome:
        """Act on an fd of a branch's storage; let the kernel tell of any other one."""
        if request.int_arg(0) < 0:
            return Errno(EBADF)
        try:
            held = open_of(request, request.int_arg(0))
        except Refusal as refusal:
            if refusal.errno == EPERM:  # we may not look at this process: nor does it see a branch
                return CONTINUE
            raise
        try:
            mount = self._files.view.mount_of(held, stored=True)
            cow = None if mount is None else mount.cow
            if cow is None or not cow.stores(held):
                return CONTINUE
            return self._files.unprivileged(partial(act, cow, held))
        except OSError as error:  # the kernel's answer is the child's
            return Errno(error.errno or EINVAL)
        finally:
            os.close(held)

    def fstat(self, request: Request) -> Outcome:
        """Serve fstat: fd, buffer."""

        def act(cow: CowLayer, held: int) -> Outcome:
            write(request, request.args[1], cow.stat_of(held))
            return Value(0)

        return self._on(request, act)

    def flistxattr(self, request: Request) -> Outcome:
        """Serve flistxattr: fd, buffer, size."""

        def act(cow: CowLayer, held: int) -> Outcome:
            _ = cow
            stored = map(os.fsencode, os.listxattr(b"/proc/self/fd/%d" % held))
            names = [seen for name in stored if (seen := overlay.unescape(name)) is not None]
            return give(request, b"".join(name + b"\0" for name in names), request.args[1], request.args[2])

        return self._on(request, act)

    def fgetxattr(self, request: Request) -> Outcome:
        """Serve fgetxattr: fd, name, buffer, size."""

        def act(cow: CowLayer, held: int) -> Outcome:
            _ = cow
            name = overlay.escape(name_of(request, 1))
            content = os.getxattr(b"/proc/self/fd/%d" % held, name)
            return give(request, content, request.args[2], request.args[3])

        return self._on(request, act)
