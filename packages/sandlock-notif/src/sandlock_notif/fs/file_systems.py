"""Which file systems answer by themselves, and which ask a server that may never do so.

A path is looked up in what the kernel remembers, and what it does not know is waited for by a thread. But what is found
has to be asked for more, by stat say, and then a dead server holds up who asks. So nothing on the file system of
a server is asked for anything by the loop.

The type is that of the mount by which an object was reached. /proc/PID/mountinfo tells it, and asks no file system.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from sandlock_notif.daemon_executor import DaemonExecutor
from sandlock_notif.fs.how import UncachedError
from sandlock_notif.fs.magic import mount_id
from sandlock_sys.capabilities import set_effective
from sandlock_sys.errors import SyscallError
from sandlock_sys.walk import Marks, device_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["FileSystems"]

# Types whose data are on a disk or in memory of this machine. What is not here is asked by a thread: fuse and all that
# is made with it, nfs, cifs, 9p, ceph, autofs, and whatever comes next. An overlay is as prompt as what it lies on,
# which nobody tells: containers have one as their root, so it is here.
_PROMPT = frozenset(
    b"""
    bcachefs bpf btrfs cgroup cgroup2 configfs cramfs debugfs devpts devtmpfs efivarfs erofs exfat ext2 ext3 ext4 f2fs
    hfs hfsplus hugetlbfs iso9660 jfs minix mqueue nilfs2 nsfs ntfs3 overlay pipefs proc pstore ramfs reiserfs romfs
    rootfs securityfs selinuxfs sockfs squashfs sysfs tmpfs tracefs ubifs udf vfat xfs zfs
    """.split()
)
_THREADS = 8  # that may wait for a file system; a dead server holds up no more


class FileSystems:
    """Tells the two apart, and has the threads that wait for a server.

    A device's number may be given away when its file system is unmounted, which no program of a sandbox can do. Who
    mounts servers beside a running sandbox can make it wait once.

    Arguments:
        changed: called when another one is known to be prompt; in any thread.

    Attributes:
        pid: of a process whose mounts are looked at as well as ours.

    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._types: dict[int, bytes] = {}
        self._pool: DaemonExecutor | None = None
        self.pid = os.getpid()

    def prompt(self, fds: Iterable[int]) -> Marks:
        """Return (st_dev, 0) of those that are known to answer by themselves, and of what `fds` lead to if they do."""
        for fd in fds:
            self.is_prompt(fd)
        return Marks((device, 0) for device, kind in tuple(self._types.items()) if kind in _PROMPT)

    def type(self, device: int, fd: int) -> bytes:
        """Return the type of the file system that is `device`, by an object on it that `fd` pins; b"" if unknown."""
        known = self._types.get(device)
        if known is None:
            known = self._types[device] = self._look_up(fd)
            if known in _PROMPT:
                self._changed()
        return known

    def is_prompt(self, fd: int, device: int | None = None) -> bool:
        """Whether what `fd` leads to, on `device`, is told about without a server."""
        return self.type(device_of(fd) if device is None else device, fd) in _PROMPT

    def check(self, fd: int, *, wait: bool) -> None:
        """Raise UncachedError for what has a server, unless that may be waited for."""
        if not wait and not self.is_prompt(fd):
            raise UncachedError

    def _look_up(self, fd: int) -> bytes:
        try:
            line = b"\n%d " % mount_id(fd)
        except SyscallError:
            return b""
        for place in (b"/proc/thread-self/mountinfo", b"/proc/%d/mountinfo" % self.pid):
            try:
                with open(place, "rb", buffering=0) as file:
                    text = b"\n" + file.readall()
            except OSError:  # the process has ended
                continue
            if (at := text.find(line)) >= 0:
                return text[text.index(b" - ", at) + 3 :].split(maxsplit=1)[0]
        return b""

    @property
    def pool(self) -> DaemonExecutor:
        """Threads that may wait for file systems."""
        if self._pool is None:
            self._pool = DaemonExecutor(_THREADS, "sandlock-files", partial(set_effective, 0))
        return self._pool

    def close(self) -> None:
        """Let the threads end; twice is fine."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
