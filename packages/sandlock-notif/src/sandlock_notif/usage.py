"""What memory the processes of a sandbox use, read from /proc at one moment."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from sandlock_notif.task_facts import contents, same_memory, threads_of
from sandlock_sys import kcmp
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Around",
    "Use",
    "anonymous",
    "file_bytes",
    "file_key",
    "file_of",
    "folder_bytes",
    "has_executed",
    "look_around",
    "minor_faults",
    "proportional",
    "proportional_of",
    "reader",
    "status_bytes",
]

FileKey: TypeAlias = tuple[int, int]  # (device, inode)

_PAGE = os.sysconf("SC_PAGE_SIZE")
_BLOCK = 512  # bytes of st_blocks, stat(2)
_INODE = 1024  # what the kernel keeps for a file in memory, its name included; about
_LARGE = 1 << 20  # page tables worth a second look
_GONE = (FileNotFoundError, ProcessLookupError)
_PF_FORKNOEXEC = 0x40  # linux/sched.h: forked, and no exec since
_SHARED_ANONYMOUS = (b"/dev/zero", b"/SYSV")  # what maps calls MAP_SHARED | MAP_ANONYMOUS, and shmat(2)


@dataclass(frozen=True, slots=True)
class Use:
    """What a process uses now, and did at the sample before, in bytes.

    Attributes:
        pid: of the process.
        now: bytes, each page divided by those that have it.
        before: at the sample before.
        idle: it took no page fault since. Then it did not grow by its own doing: others copied what they had in common.

    """

    pid: int
    now: int
    before: int
    idle: bool = False

    @property
    def growth(self) -> int:
        """Bytes that it took since the last sample."""
        return 0 if self.idle else self.now - self.before


@dataclass(slots=True)
class Around:
    """What `look_around` saw.

    Attributes:
        shared: bytes of each anonymous shared memory, by how far mappings of it reach.
        nameless: the same of each mapped file without a name, below one of the folders once.
        held: (device, inode) of the files that some process has open or mapped.
        filed: bytes of the files below the folders, and of those without a name that are open on the same devices.
        tables: bytes of page tables.
        by_pid: of all this, what each process has; more than one may have the same.
        in_flight: whether fds wait in a socket, to be received.
        complete: whether every process could be read.

    """

    shared: dict[FileKey, int] = field(default_factory=dict)
    nameless: dict[FileKey, int] = field(default_factory=dict)
    held: set[FileKey] = field(default_factory=set)
    filed: int = 0
    tables: int = 0
    by_pid: dict[int, int] = field(default_factory=dict)
    in_flight: bool = False
    complete: bool = True


def look_around(pids: Sequence[int], folders: Sequence[str | bytes]) -> Around:
    """Look at mappings, descriptors, page tables and folders. It may block."""
    seen = Around()
    unlinked: dict[FileKey, int] = {}
    large: list[int] = []
    devices = set()
    for folder in folders:
        with suppress(OSError):
            devices.add(os.stat(folder).st_dev)
    for pid in pids:
        try:
            # Descriptors before mappings, sockets among them: what moves from one to the other is seen in one of them.
            opened = _take_descriptors(pid, devices, seen)
            mapped = _take_mappings(pid, devices, seen)
            unlinked.update(opened)
            size = sum(opened.values()) + sum(size for key, size in mapped.items() if key not in opened)
        except _GONE:
            continue
        except OSError:  # it made itself unreadable, or we have no fd left: what is resident at least, and no less
            seen.complete = False
            size = seen.shared[-1, pid] = status_bytes(pid, b"RssShmem:")
        tables = status_bytes(pid, b"VmPTE:")
        if tables >= _LARGE:  # of those that share their memory, as a child of vfork does, once
            twice = not has_executed(pid) and any(same_memory(reader(pid), reader(other)) for other in large)
            large.append(pid)
            tables = 0 if twice else tables
        seen.tables += tables
        seen.by_pid[pid] = size + tables
    for key in unlinked:
        seen.nameless.pop(key, None)  # what it occupies is known
    seen.filed = sum(folder_bytes(folder) for folder in folders) + sum(unlinked.values())
    return seen


def reader(pid: int) -> int:
    """Return a thread of a process that has its memory still: the first may have ended before the others."""
    if _has_memory(pid):
        return pid
    with suppress(ProcessLookupError):
        for tid in threads_of(pid):
            if _has_memory(tid):
                return tid
    return pid


def _has_memory(tid: int) -> bool:
    with suppress(*_GONE):
        return not contents(f"/proc/{tid}/statm").startswith(b"0 ")
    return False


def status_bytes(pid: int, name: bytes) -> int:
    """Return a size from /proc/PID/status, 0 when the process is gone."""
    with suppress(*_GONE):
        for line in contents(f"/proc/{reader(pid)}/status").splitlines():
            if line.startswith(name):
                return int(line.split()[1]) << 10
    return 0


def anonymous(pid: int) -> int:
    """Return the resident private bytes of a process, those shared with a fork included; 0 when it is gone.

    Raises OSError when it cannot be known. The kernel counts per CPU and adds up now and then: some hundred pages per
    CPU may be missing, or too many.
    """
    try:
        words = contents(f"/proc/{pid}/statm").split()
        if words[:1] == [b"0"]:
            words = contents(f"/proc/{reader(pid)}/statm").split()
    except _GONE:
        return 0
    return (int(words[1]) - int(words[2])) * _PAGE  # resident without files and shared memory: proc_pid_statm(5)


def proportional(pid: int) -> int:
    """Return the private bytes of a process, each page divided by the processes that have it; 0 when it is gone.

    It walks the page tables. Where it may not be read, or the kernel (before 5.9) does not tell, `anonymous` answers.
    """
    try:
        text = contents(f"/proc/{reader(pid)}/smaps_rollup")
    except _GONE:
        return 0
    except OSError:
        return anonymous(pid)
    swapped = 0
    found = None
    for line in text.splitlines():
        if line.startswith(b"Pss_Anon:"):
            found = int(line.split()[1]) << 10
        elif line.startswith(b"SwapPss:"):
            swapped = int(line.split()[1]) << 10
    return anonymous(pid) if found is None else found + swapped


def proportional_of(pids: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
    """Return `proportional` and `minor_faults` of each.

    Of those that share their memory, as a child of vfork does, only the first is there.
    """
    found: dict[int, int] = {}
    readers = {pid: reader(pid) for pid in pids}  # once: each is compared with many
    for pid in sorted(pids, key=has_executed, reverse=True):
        if has_executed(pid) or not any(same_memory(readers[pid], readers[other]) for other in found):
            found[pid] = proportional(pid)
    return found, {pid: minor_faults(pid) for pid in found}


def minor_faults(pid: int) -> int:
    """Return how many pages a process has been given so far, or 0 when it is gone."""
    try:
        data = contents(f"/proc/{pid}/stat")
    except OSError:
        return 0
    return int(data[data.rindex(b")") + 2 :].split()[7])  # field 10 of proc_pid_stat(5)


def has_executed(pid: int) -> bool:
    """Tell whether a process has made an exec since it was forked; True when it is gone."""
    try:
        data = contents(f"/proc/{pid}/stat")
    except OSError:
        return True
    return not int(data[data.rindex(b")") + 2 :].split()[6]) & _PF_FORKNOEXEC


def _take_mappings(pid: int, devices: set[int], seen: Around) -> dict[FileKey, int]:
    """Note what a process has mapped, and return the parts that are in memory and nobody's own.

    By their size, because what is in memory of them cannot be seen: pages stay when nobody maps them (MADV_DONTNEED).
    """
    found: dict[FileKey, int] = {}
    for line in contents(f"/proc/{reader(pid)}/maps").splitlines():
        words = line.split(None, 5)
        if len(words) < 6 or words[4] == b"0":
            continue
        major, _, minor = words[3].partition(b":")
        key = os.makedev(int(major, 16), int(minor, 16)), int(words[4])
        seen.held.add(key)
        if words[1][3:4] == b"s" and words[5].startswith(_SHARED_ANONYMOUS):
            kind = seen.shared
        elif key[0] in devices and words[5].endswith(b" (deleted)"):
            kind = seen.nameless
        else:
            continue
        start, _, end = words[0].partition(b"-")
        reach = int(words[2], 16) + int(end, 16) - int(start, 16)
        kind[key] = max(kind.get(key, 0), reach)
        found[key] = max(found.get(key, 0), reach)
    return found


def _take_descriptors(pid: int, devices: set[int], seen: Around) -> dict[FileKey, int]:
    """Note what a process has open, and return what the files without a name among it occupy on these devices."""
    found: dict[FileKey, int] = {}
    first = reader(pid)
    for tid in threads_of(pid):
        if tid != first and _same_files(first, tid):
            continue
        folder = f"/proc/{tid}/fd"
        try:
            names = os.listdir(folder)
        except _GONE:  # the thread is, and nothing of its own is left
            continue
        for name in names:
            with suppress(*_GONE):
                status = os.stat(f"{folder}/{name}")
                key = status.st_dev, status.st_ino
                seen.held.add(key)
                if stat.S_ISSOCK(status.st_mode):
                    seen.in_flight = seen.in_flight or _waiting_fds(contents(f"/proc/{tid}/fdinfo/{name}"))
                elif not status.st_nlink and status.st_dev in devices:
                    found[key] = status.st_blocks * _BLOCK + _INODE
    return found


def _waiting_fds(fdinfo: bytes) -> bool:
    """Tell from a socket's fdinfo whether fds wait in it (scm_fds, since 5.8)."""
    return any(line.startswith(b"scm_fds:") and line.split()[1] != b"0" for line in fdinfo.splitlines())


def _same_files(one: int, other: int) -> bool:
    try:
        return kcmp.compare(one, other, kcmp.Resource.FILES) == 0
    except SyscallError:
        return False


def file_bytes(fd: int) -> int:
    """Return what an open file occupies."""
    return os.fstat(fd).st_blocks * _BLOCK


def file_key(fd: int) -> tuple[int, int]:
    """Return (device, inode) of an open file."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def file_of(tid: int, fd: int) -> tuple[int, int] | None:
    """Return (device, inode) of a thread's open file, None when it has none there."""
    try:
        status = os.stat(f"/proc/{tid}/fd/{fd}")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def folder_bytes(path: str | bytes) -> int:
    """Return what files below a folder occupy, inodes too, on its own file system; each once, whatever its links."""
    seen: set[int] = set()
    total = 0
    try:
        device = os.lstat(path).st_dev
    except FileNotFoundError:
        return 0
    pending = [path]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev != device or status.st_ino in seen:
                        continue
                    seen.add(status.st_ino)
                    total += status.st_blocks * _BLOCK + _INODE
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
    return total
