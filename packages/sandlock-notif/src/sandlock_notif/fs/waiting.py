"""Opening what may make its opener wait: FIFOs, terminals, devices. Neither the loop nor a deputy ever waits for them.

A FIFO is opened without blocking and watched until its other side is there, as the kernel would have let the child
wait. The child's own terminal is found by its number, because /dev/tty means the opener's.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
from errno import EACCES, EAGAIN, ENXIO
from stat import S_ISCHR
from typing import TYPE_CHECKING

from sandlock_notif.action import Errno, InjectFd
from sandlock_notif.errors import VanishedError
from sandlock_notif.fs.origin import AT_FDCWD
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import read_stat
from sandlock_sys.splice import tee

if TYPE_CHECKING:
    from sandlock_notif.action import Action
    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.location import Location
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["WaitingOpens"]

_FIRST_S, _LONGEST_S = 0.0005, 0.05  # between two looks for the other side
_TTY = os.makedev(5, 0)  # /dev/tty, Documentation/admin-guide/devices.txt


class WaitingOpens:
    """Opens FIFOs and character devices for the children of one sandbox."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def open(self, request: Request, place: Location, flags: int, *, direct: bool = False) -> Outcome:
        """Open what `place` pins; existing, and no symlink.

        With `direct` this process opens it, not a deputy: it lies in a branch's storage.
        """
        if S_ISCHR(place.mode) and os.fstat(place.object).st_rdev == _TTY:
            return self._open_terminal(request, place.object, flags)
        return self._open(request, place.object, flags, fifo=not S_ISCHR(place.mode), direct=direct)

    async def _open(self, request: Request, found: int, flags: int, *, fifo: bool, direct: bool) -> Action:
        opened = await self._try(found, flags, direct=direct)
        if fifo and not flags & os.O_NONBLOCK:
            pause = _FIRST_S
            # A writer alone is refused (ENXIO); a reader alone is let in, and looks for a writer.
            while opened == -ENXIO or (opened >= 0 and not _met(opened, flags)):
                if not request.waits():
                    if opened >= 0:
                        os.close(opened)
                    raise VanishedError
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_S)
                if opened == -ENXIO:
                    opened = await self._try(found, flags, direct=direct)
        if opened < 0:
            return Errno(-opened)
        if not flags & os.O_NONBLOCK:
            fcntl.fcntl(opened, fcntl.F_SETFL, fcntl.fcntl(opened, fcntl.F_GETFL) & ~os.O_NONBLOCK)
        return InjectFd(opened, close_on_exec=bool(flags & os.O_CLOEXEC))

    async def _try(self, found: int, flags: int, *, direct: bool = False) -> int:
        """Open without waiting; return the fd, which is the caller's, or a negated errno."""
        flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        if direct:
            try:
                return os.open(b"/proc/self/fd/%d" % found, flags)
            except OSError as error:
                return -(error.errno or EACCES)
        done = await self._files.call("openat", AT_FDCWD, b"/proc/self/fd/%d" % found, flags, 0)
        return done.result

    async def _open_terminal(self, request: Request, found: int, flags: int) -> Action:
        number = read_stat(request.tid).tty_nr
        if not request.waits():
            raise VanishedError
        # Whether the child may open /dev/tty at all is the kernel's to say; ENXIO means that this process has none.
        allowed = await self._try(found, flags)
        if allowed >= 0:
            os.close(allowed)
        elif allowed != -ENXIO:
            return Errno(-allowed)
        if not number:
            return Errno(ENXIO)
        path = (
            f"/dev/pts/{os.minor(number)}" if os.major(number) >= 136 else f"/dev/tty{os.minor(number)}"
        )  # UNIX98_PTY_SLAVE_MAJOR
        try:
            opened = os.open(path, flags & ~os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            return Errno(error.errno or EACCES)
        if os.fstat(opened).st_rdev != number:
            os.close(opened)
            return Errno(ENXIO)
        if not flags & os.O_NONBLOCK:
            fcntl.fcntl(opened, fcntl.F_SETFL, fcntl.fcntl(opened, fcntl.F_GETFL) & ~os.O_NONBLOCK)
        return InjectFd(opened, close_on_exec=bool(flags & os.O_CLOEXEC))


def _met(opened: int, flags: int) -> bool:
    """Whether the other side of a FIFO is there, or has been."""
    if flags & os.O_ACCMODE != os.O_RDONLY:
        return True  # a writer is not let in alone, and who does both is its own other side
    if os.readlink(b"/proc/self/fd/%d" % opened).startswith(b"pipe:"):
        return True  # an anonymous pipe, which is open at both sides
    watch = select.poll()
    watch.register(opened, select.POLLIN)
    if watch.poll(0):  # bytes to read, or a writer that came and went
        return True
    reader, writer = os.pipe()
    try:
        tee(opened, writer, 1)
    except SyscallError as error:
        return error.errno == EAGAIN  # empty, with a writer; without one tee returns 0
    finally:
        os.close(reader)
        os.close(writer)
    return False
