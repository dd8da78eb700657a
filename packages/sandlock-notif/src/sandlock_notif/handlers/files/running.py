"""execve and execveat: what is denied does not run, by whatever name and however the names flip.

The path is judged first, so that the program gets its errno. The kernel reads it again, so nothing is built on that:
the new image is looked at before its first instruction, as objects (`ImageCheck`, given to `ExecTable`), and killed
when it, its loader or its interpreter is denied. A script's own file is opened by its interpreter, which is served.
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import EACCES
from typing import TYPE_CHECKING

from sandlock_notif.action import CONTINUE, Errno
from sandlock_notif.dispatch import Trap
from sandlock_notif.errors import NotifError, Refusal
from sandlock_notif.fs.how import EMPTY, NO_FOLLOW
from sandlock_notif.fs.origin import AT_FDCWD
from sandlock_notif.memory import read_path
from sandlock_sys.proc import read_maps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandlock_arch.stub import StubOperation
    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.location import Location
    from sandlock_notif.fs.view import View
    from sandlock_notif.handlers.files.inside import Inside
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.image import Image
    from sandlock_notif.processes import Process
    from sandlock_notif.request import Request

__all__ = ["DeniedImageError", "ImageCheck", "Running"]

_SYMLINK_NOFOLLOW, _EMPTY_PATH = 0x100, 0x1000  # AT_*, linux/fcntl.h


class DeniedImageError(NotifError):
    """A program image that the view denies: its process has been killed."""


class Running:
    """Handlers of execve and execveat: they refuse, or leave the call to whoever lets it through."""

    def __init__(self, files: Files, inside: Inside) -> None:
        self._files = files
        self._inside = inside

    def traps(self) -> list[Trap]:
        """The calls."""
        why = "a denied program does not run"
        return [
            Trap("execve", lambda request: self._exec(request, AT_FDCWD, 0, 0), why, cost="memory"),
            Trap(
                "execveat",
                lambda request: self._exec(request, request.int_arg(0), 1, request.args[4] & 0xFFFFFFFF),
                why,
                cost="memory",
            ),
        ]

    def _exec(self, request: Request, at: int, argument: int, flags: int) -> Outcome:
        if self._inside.lets(request):
            return CONTINUE  # seized by our tracer, who looks at what comes of it
        how = (NO_FOLLOW if flags & _SYMLINK_NOFOLLOW else 0) | (EMPTY if flags & _EMPTY_PATH else 0)

        def act(place: Location) -> Outcome:
            if place.file is not None:
                return Errno(EACCES, "a generated file does not run")
            if self._files.view.moves or (place.mount is not None and place.mount.cow is not None):
                words = request.args[argument + 1], request.args[argument + 2]
                shown = path
                if at != AT_FDCWD and not path.startswith(b"/"):
                    shown = b"/dev/fd/%d" % at + (b"/" + path if path else b"")  # as the kernel calls it, fs/exec.c
                return self._inside.execute(request, place, shown, words)
            return None

        path = read_path(request, argument)
        return self._files.at_path(request, at, path, how, act)


class ImageCheck:
    """Looks at program images before they run, for `ExecTable`: an `ImageChange` that changes nothing."""

    begins = False

    def __init__(self, view: View) -> None:
        self._view = view

    def stubs(self) -> Mapping[str, StubOperation]:
        """None."""
        return {}

    def prepare(self, _: Process | None) -> Callable[[Image], None] | None:
        """Return the look at an image; None where nothing is denied."""
        return self._look if self._view.denials else None

    def _look(self, image: Image) -> None:
        """Raise for an image of which any file is denied; in the thread of its tracer."""
        view, table = self._view, self._view.table
        paths = {b"/proc/%d/exe" % image.pid}
        for mapping in read_maps(image.pid):
            if not mapping.inode:
                continue
            mark = table.get((os.makedev(*mapping.device), mapping.inode))
            if mark is not None and mark.denied:
                raise DeniedImageError(mark.denied)
            paths.add(mapping.name)
        for path in paths:
            with suppress(FileNotFoundError, NotADirectoryError):  # removed since: no directory holds it
                follow = 0 if path.endswith(b"/exe") else os.O_NOFOLLOW
                found = os.open(path, os.O_PATH | os.O_CLOEXEC | follow)
                try:
                    view.origins.judge(view.host_root, found)
                except Refusal as refusal:
                    raise DeniedImageError(refusal.reason) from refusal
                finally:
                    os.close(found)
