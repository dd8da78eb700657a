"""Where a relative path starts: the caller's working directory or an fd, pinned, and known to lie outside denied ones.

Safety: /proc/TID is the caller's only while the request waits, so that is asked after the fd was opened.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from errno import EACCES, EBADF, ELOOP, ENOENT, ENOTDIR, EPERM, ESRCH
from stat import S_ISDIR
from typing import TYPE_CHECKING

from sandlock_notif.errors import Refusal, VanishedError
from sandlock_sys.errors import SyscallError
from sandlock_sys.openat2 import openat2
from sandlock_sys.walk import Marks, climb

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif.fs.marks import Identity, MarkTable
    from sandlock_notif.request import Request

__all__ = ["AT_FDCWD", "Origins", "holder_of", "open_of"]

AT_FDCWD = -100  # linux/fcntl.h
_NO_LINKS = 6  # RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS, linux/openat2.h, 5.6
_TRIES = 5  # for a file that is being renamed
_KNOWN = 128  # directories whose way up has been looked at


def open_of(request: Request, fd: int) -> int:
    """Return an O_PATH fd of the caller's fd `fd`, or of its working directory for AT_FDCWD; the caller owns it.

    Raises:
        Refusal: EBADF.
        VanishedError: the task no longer waits.

    """
    if fd == AT_FDCWD:
        link = b"/proc/%d/cwd" % request.tid
    elif fd < 0:
        raise Refusal(EBADF)
    else:
        link = b"/proc/%d/fd/%d" % (request.tid, fd)
    try:
        found = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == ESRCH or not request.waits():
            raise VanishedError from error
        if error.errno == ENOENT:
            raise Refusal(EBADF) from error
        # EACCES: not dumpable. EMFILE and others: ours. Neither may let the call through (NOT-08).
        raise Refusal(EPERM, f"the files of thread {request.tid} cannot be seen: {error.strerror}") from error
    if not request.waits():
        os.close(found)
        raise VanishedError
    return found


class Origins:
    """Tells whether a directory lies below a denied one, by going up from it.

    A directory that was found outside stays outside as far as the sandbox can help it: moving it below a denied one is
    refused. So it is looked at once; an fd of it is kept, so that its inode number is not given to another.
    """

    def __init__(self, table: MarkTable) -> None:
        self._table = table
        self._denied = Marks(())
        self._fence = Marks(())
        self._known: OrderedDict[Identity, int] = OrderedDict()

    @property
    def denied(self) -> Marks:
        """The directories below which nothing may start."""
        return self._denied

    @property
    def fences(self) -> Marks:
        """The directories below one of which everything has to start, or none."""
        return self._fence

    def fence(self, roots: Marks) -> None:
        """Refuse directories that do not lie below one of `roots` from now on."""
        self._fence = roots

    def forget(self) -> None:
        """Look at every directory again: what is denied changed."""
        self._denied = self._table.denied()
        while self._known:
            os.close(self._known.popitem()[1])

    def check(self, directory: int) -> tuple[Identity, int]:
        """Return identity and mode of what `directory` pins.

        Raises:
            Refusal: EACCES when it is denied, or below something that is.

        """
        found = os.fstat(directory)
        identity = found.st_dev, found.st_ino
        if identity not in self._known and S_ISDIR(found.st_mode) and (self._denied or self._fence):
            self._look_up(directory, identity)
        mark = self._table.get(identity)
        if mark is not None and mark.denied:
            raise Refusal(EACCES, mark.denied)
        return identity, found.st_mode

    def check_file(self, root: int, found: int) -> None:
        """Refuse what lies below a denied directory now, for an object that an fd or a magic link led to.

        Directories are judged by `check`. Other objects have no way up; see `holder_of`.

        Raises:
            Refusal: EACCES.

        """
        self._check_file(root, found, self.check)

    def judge(self, root: int, found: int) -> None:
        """As `check_file`, in any thread: nothing is kept."""
        denied = self._denied

        def look(directory: int) -> None:
            if climb(directory, denied) is not None:
                raise Refusal(EACCES, "it lies below a denied directory")

        self._check_file(root, found, look)

    def _check_file(self, root: int, found: int, look: Callable[[int], object]) -> None:
        if not self._denied:
            return
        directory = holder_of(root, found)
        if directory >= 0:
            try:
                look(directory)
            finally:
                os.close(directory)

    def start(self, directory: int) -> Identity:
        """Return the identity of the directory that a path starts in, as `check`; ENOTDIR for anything else."""
        identity, mode = self.check(directory)
        if not S_ISDIR(mode):
            raise Refusal(ENOTDIR)
        return identity

    def _look_up(self, directory: int, identity: Identity) -> None:
        try:
            above = climb(directory, self._denied)
            outside = self._fence and climb(directory, self._fence) is None
        except SyscallError as error:
            raise Refusal(EACCES if error.errno in (EACCES, ELOOP) else error.errno or EACCES) from error
        if above is not None:
            mark = self._table.get(above)
            raise Refusal(EACCES, mark.denied if mark is not None else "below a denied directory")
        if outside:
            raise Refusal(EACCES, "it lies outside of the root")
        self._known[identity] = os.dup(directory)
        if len(self._known) > _KNOWN:
            os.close(self._known.popitem(last=False)[1])

    def close(self) -> None:
        """Close what is kept."""
        while self._known:
            os.close(self._known.popitem()[1])


def holder_of(root: int, found: int) -> int:
    """Return an O_PATH fd, the caller's, of the directory that holds a file now; -1 for one that none holds.

    The directory is found by the name that the kernel gives, and believed if the file is there.

    Raises:
        Refusal: EACCES when it cannot be told.

    """
    for _ in range(_TRIES):
        shown = os.readlink(b"/proc/self/fd/%d" % found)
        if not shown.startswith(b"/") or not os.fstat(found).st_nlink:
            return -1  # a pipe, a socket, or a file without a name
        above, _, name = shown.rpartition(b"/")
        try:
            directory = openat2(root, above[1:] or b".", os.O_PATH | os.O_DIRECTORY, _NO_LINKS)
        except SyscallError:
            continue
        try:
            there: os.stat_result | None = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            there = None
        if there is not None and os.path.samestat(there, os.fstat(found)):
            return directory
        os.close(directory)
        if there is None and shown.endswith(b" (deleted)"):
            return -1  # the name that it was opened by is gone; nobody can tell the others
    raise Refusal(EACCES, "where this file lies cannot be told")
