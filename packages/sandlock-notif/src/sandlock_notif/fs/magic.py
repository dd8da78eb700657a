"""Links of /proc that lead where no text says: the caller's own, never the supervisor's.

Safety: this process is not confined, so the kernel would let it follow the links of any process of this user. Whose
they are is read from the directory that holds them, and only those of the sandbox's own processes are followed.
"""

from __future__ import annotations

import os
import re
from errno import EACCES, EINVAL, ENOENT
from typing import TYPE_CHECKING

from sandlock_notif.errors import Refusal, VanishedError
from sandlock_notif.fs.numbering import Numbering
from sandlock_sys import inode
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from sandlock_notif.fs.file_systems import FileSystems
    from sandlock_notif.processes import Processes
    from sandlock_notif.request import Request

__all__ = ["Magic", "link_text", "mount_id"]

_PROC_MAGIC = 0x9FA0  # PROC_SUPER_MAGIC, linux/magic.h
_ROOT_INODE = 1  # PROC_ROOT_INO, fs/proc/internal.h
_DONT_SYNC = 0x4000  # AT_STATX_DONT_SYNC, linux/fcntl.h, 4.11
_MNT_ID, _MNT_ID_AT = 0x1000, 144  # STATX_MNT_ID, stx_mnt_id in struct statx, linux/stat.h, 5.8
_OWNER = re.compile(rb"/(\d+)(?:/task/\d+)?(?:/(fd|ns|map_files))?\Z")


class Magic:
    """Tells the links of /proc apart and who they belong to."""

    def __init__(self, processes: Processes, systems: FileSystems) -> None:
        self._systems = systems
        self.numbering = Numbering(processes)
        self._devices: dict[int, bool] = {}

    def is_proc(self, device: int, fd: int) -> bool:
        """Whether an object on `device`, pinned by `fd`, is one of a proc file system."""
        known = self._devices.get(device)
        if known is None:
            told = self._systems.type(device, fd)
            magic = _PROC_MAGIC if told == b"proc" else 0 if told else int.from_bytes(inode.statfs(fd)[:8], "little")
            known = self._devices[device] = magic == _PROC_MAGIC
        return known

    def text(self, request: Request, directory: int, name: bytes) -> bytes | None:
        """Return what the link `name` of a /proc directory says to the caller; None when it has to be followed.

        Raises:
            Refusal: EACCES for a link of a process outside.

        """
        found = os.fstat(directory)
        if found.st_ino == _ROOT_INODE:
            if name == b"self":
                return b"%d" % self.numbering.leader(request, found.st_dev)
            if name == b"thread-self":
                return self.numbering.thread_path(request, found.st_dev)
            return os.readlink(name, dir_fd=directory)
        if self.owner(request, directory) is None:
            return os.readlink(name, dir_fd=directory)  # a plain one, as /proc/fs has
        return None

    def owner(self, request: Request, directory: int) -> tuple[int, bytes] | None:
        """Return the process that a directory of /proc belongs to, and b"fd", b"ns", b"map_files" or b"" for its own.

        Raises:
            Refusal: EACCES when it is none of the sandbox's.

        """
        found = _OWNER.search(os.readlink(b"/proc/self/fd/%d" % directory))
        if found is None:
            return None
        pid = int(found[1])
        if found[2]:
            try:
                own = os.open(b"..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
            except OSError as error:
                raise Refusal(error.errno or EACCES) from error
        else:
            own = directory
        try:
            owns = self.numbering.owns(request, own, pid)
        finally:
            if own != directory:
                os.close(own)
        if not owns:
            raise Refusal(EACCES, f"process {pid} is not of the sandbox")
        return pid, found[2] or b""

    def follow(self, request: Request, directory: int, name: bytes) -> int | None:
        """Return an O_PATH fd, the caller's, of what the link leads to; None where that is the root of the view.

        Raises:
            Refusal: as `owner`, or what the kernel answers.

        """
        owner = self.owner(request, directory)
        if owner is None:
            raise Refusal(EACCES)
        if name == b"root" and not owner[1]:
            return None
        try:
            found = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            raise Refusal(error.errno or EACCES) from error
        # The process may have ended since it was found to be ours, and its id given away: then this link leads into
        # another's. The directory is bound to the process that it was opened for, so a new one cannot be behind it.
        if not request.waits():
            os.close(found)
            raise VanishedError
        return found


def link_text(found: int) -> bytes:
    """Return where the symlink that `found` pins points.

    Raises:
        Refusal: EINVAL when it is none.

    """
    try:
        return inode.readlink(found)
    except SyscallError as error:
        raise Refusal(EINVAL if error.errno == ENOENT else error.errno or EINVAL) from error


def mount_id(fd: int) -> int:
    """Return the number of the mount that `fd` was opened on (5.8)."""
    return int.from_bytes(inode.statx(fd, _DONT_SYNC, _MNT_ID)[_MNT_ID_AT : _MNT_ID_AT + 8], "little")
