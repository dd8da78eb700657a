"""The working directory, and what else ends in the kernel knowing a path: chdir and inotify.

chdir is judged here and then made by the kernel, which reads the path again. Nothing is built on that verdict: where a
relative path starts is looked at anew, as an object, each time one is used.
"""

from __future__ import annotations

from errno import EBADF, ENOTDIR
from stat import S_ISDIR
from typing import TYPE_CHECKING

from sandlock_notif.action import CONTINUE, Errno
from sandlock_notif.dispatch import Trap
from sandlock_notif.fs.how import NO_FOLLOW
from sandlock_notif.fs.layers.host import object_path
from sandlock_notif.fs.origin import AT_FDCWD
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.location import Location
    from sandlock_notif.handlers.files.inside import Inside
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["WorkingDirectory"]

_DONT_FOLLOW = 0x02000000  # IN_DONT_FOLLOW, linux/inotify.h, 2.6.15


class WorkingDirectory:
    """Handlers of chdir and inotify_add_watch."""

    def __init__(self, files: Files, inside: Inside) -> None:
        self._files = files
        self._inside = inside

    def traps(self) -> list[Trap]:
        """The calls."""
        return [
            Trap("chdir", self.chdir, "a denied directory may not be entered", cost="memory"),
            Trap("inotify_add_watch", self.watch, "what a path leads to is decided by the view", cost="deputy"),
        ]

    def chdir(self, request: Request) -> Outcome:
        """Serve chdir: path."""
        if self._inside.lets(request):
            return CONTINUE

        def act(place: Location) -> Outcome:
            if not S_ISDIR(place.mode):
                return Errno(ENOTDIR)
            if self._files.view.moves or (place.mount is not None and place.mount.cow is not None):
                return self._inside.chdir(request, place)
            return CONTINUE

        return self._files.at(request, AT_FDCWD, 0, 0, act)

    def watch(self, request: Request) -> Outcome:
        """Serve inotify_add_watch: fd, path, mask."""
        mask = request.args[2] & 0xFFFFFFFF

        def act(place: Location) -> Outcome:
            watched = self._files.pin(place)
            process = self._files.view.process(request)
            try:
                queue = process.take_fd(request.int_arg(0))
            except SyscallError as error:
                return Errno(error.errno or EBADF)
            return self._files.post(
                request, "inotify_add_watch", queue, object_path(watched), mask & ~_DONT_FOLLOW,
                places=(place,), fds=(queue,),
            )  # fmt: skip

        how = NO_FOLLOW if mask & _DONT_FOLLOW else 0
        return self._files.at(request, AT_FDCWD, 1, how, act)
