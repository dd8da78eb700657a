"""What memory the processes of a sandbox use, read from /proc at one moment."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandlock_notif.tree import contents, same_memory

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
    "held_files",
    "look_around",
    "minor_faults",
    "proportional",
    "proportional_of",
    "shared_extents",
    "unlinked_files",
]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_BLOCK = 512  # bytes of st_blocks, stat(2)
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


@dataclass(frozen=True, slots=True)
class Around:
    """What `look_around` saw.

    Attributes:
        shared: bytes of anonymous shared mappings, by their whole size.
        held: (device, inode) of the files that some process has open or mapped.
        filed: bytes of the files below the folders, and of those without a name on the same devices.

    """

    shared: int
    held: frozenset[tuple[int, int]]
    filed: int


def look_around(pids: Sequence[int], *, mapped: bool, memfds: bool, folders: Sequence[str | bytes]) -> Around:
    """Look at mappings, descriptors and folders; what is not asked for is 0 or empty. It may block."""
    shared: dict[tuple[bytes, bytes], int] = {}
    held: set[tuple[int, int]] = set()
    unlinked: dict[tuple[int, int], int] = {}
    devices = set()
    for folder in folders:
        with suppress(OSError):
            devices.add(os.stat(folder).st_dev)
    for pid in pids:
        if mapped:
            for key, size in shared_extents(pid).items():
                shared[key] = max(shared.get(key, 0), size)
        if memfds:
            held |= held_files(pid)
        if devices:
            unlinked.update(unlinked_files(pid, devices))
    filed = sum(folder_bytes(folder) for folder in folders) + sum(unlinked.values())
    return Around(sum(shared.values()), frozenset(held), filed)


def anonymous(pid: int) -> int:
    """Return the resident private bytes of a process, those shared with a fork included; 0 when it is gone.

    The kernel counts per CPU and adds up now and then: some hundred pages per CPU may be missing, or too many.
    """
    try:
        words = contents(f"/proc/{pid}/statm").split()
    except OSError:
        return 0
    return (int(words[1]) - int(words[2])) * _PAGE  # resident without files and shared memory: proc_pid_statm(5)


def proportional(pid: int) -> int:
    """Return the private bytes of a process, each page divided by the processes that have it; 0 when it is gone.

    It walks the page tables. Where it may not be read, or the kernel (before 5.9) does not tell, `anonymous` answers.
    """
    try:
        text = contents(f"/proc/{pid}/smaps_rollup")
    except (FileNotFoundError, ProcessLookupError):
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
    for pid in sorted(pids, key=has_executed, reverse=True):
        if has_executed(pid) or not any(same_memory(pid, other) for other in found):
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


def shared_extents(pid: int) -> dict[tuple[bytes, bytes], int]:
    """Return `{(device, inode): bytes}` of the anonymous shared memory that a process has mapped, by its whole size.

    By its size, because what is in memory of it cannot be seen: pages stay when nobody maps them (MADV_DONTNEED).
    """
    found: dict[tuple[bytes, bytes], int] = {}
    with suppress(OSError):
        for line in contents(f"/proc/{pid}/maps").splitlines():
            words = line.split(None, 5)
            if len(words) == 6 and words[1][3:4] == b"s" and words[5].startswith(_SHARED_ANONYMOUS):
                start, _, end = words[0].partition(b"-")
                reach = int(words[2], 16) + int(end, 16) - int(start, 16)
                key = words[3], words[4]
                found[key] = max(found.get(key, 0), reach)
    return found


def held_files(pid: int) -> set[tuple[int, int]]:
    """Return (device, inode) of the files that a process has open or mapped."""
    found: set[tuple[int, int]] = set()
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):
                status = os.stat(f"{folder}/{name}")
                found.add((status.st_dev, status.st_ino))
    with suppress(OSError):
        for line in contents(f"/proc/{pid}/maps").splitlines():
            words = line.split(None, 5)
            if len(words) > 4 and words[4] != b"0":
                major, _, minor = words[3].partition(b":")
                found.add((os.makedev(int(major, 16), int(minor, 16)), int(words[4])))
    return found


def unlinked_files(pid: int, devices: set[int]) -> dict[tuple[int, int], int]:
    """Return `{(device, inode): bytes}` of the files without a name that a process has open on these devices."""
    found: dict[tuple[int, int], int] = {}
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):
                status = os.stat(f"{folder}/{name}")
                if not status.st_nlink and status.st_dev in devices:
                    found[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
    return found


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
    """Return what the files below a folder occupy, on its own file system; each once, whatever its links."""
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
                    total += status.st_blocks * _BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
    return total
