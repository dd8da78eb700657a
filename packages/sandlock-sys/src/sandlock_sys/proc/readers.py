"""Read the files of /proc/PID and parse them.

Safety: a pid may be reused between two reads. Whoever holds no pidfd, trace or parenthood of the process compares
`Stat.starttime` before and after. A process that is gone answers ENOENT (open) or ESRCH (read), as SyscallError.
"""

from __future__ import annotations

import os
from errno import EIO

from sandlock_sys.errors import SyscallError
from sandlock_sys.proc.fds import FdInfo, FdLink, parse_fd_link, parse_fdinfo
from sandlock_sys.proc.maps import Mapping, parse_maps
from sandlock_sys.proc.pagemap import ENTRY_SIZE
from sandlock_sys.proc.smaps import MappingUse, parse_smaps
from sandlock_sys.proc.stat import Stat, parse_stat
from sandlock_sys.proc.status import Status, parse_status
from sandlock_sys.proc.tasks import parse_children, parse_task_names

__all__ = [
    "list_fds",
    "list_tasks",
    "open_pagemap",
    "read_children",
    "read_fd_link",
    "read_fdinfo",
    "read_maps",
    "read_pagemap",
    "read_smaps",
    "read_stat",
    "read_status",
]

_CHUNK = 1 << 16
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


def read_maps(pid: int) -> tuple[Mapping, ...]:
    """Return the mappings of a process; empty for a zombie or kernel thread. Needs PTRACE_MODE_READ."""
    path = f"/proc/{pid}/maps"
    return parse_maps(_contents(path), path)


def read_smaps(pid: int) -> tuple[MappingUse, ...]:
    """Return the mappings of a process with what they use; walks its page tables. Needs PTRACE_MODE_READ."""
    path = f"/proc/{pid}/smaps"
    return parse_smaps(_contents(path), path)


def read_stat(pid: int, tid: int | None = None) -> Stat:
    """Return the figures of a process (sums over its threads), or of its thread `tid`."""
    path = _task(pid, tid, "stat")
    return parse_stat(_contents(path), path)


def read_status(pid: int, tid: int | None = None) -> Status:
    """Return the state of a process's main thread, or of its thread `tid`."""
    path = _task(pid, tid, "status")
    return parse_status(_contents(path), path)


def list_tasks(pid: int) -> tuple[int, ...]:
    """Return the thread ids of a process in increasing order, those that ended but are not yet gone included.

    Threads may come and go meanwhile: who must have all stops those found and asks again until none is new.
    """
    path = f"/proc/{pid}/task"
    return parse_task_names(_entries(path), path)


def read_children(pid: int, tid: int | None = None) -> tuple[int, ...]:
    """Return the children that thread `tid` (default: the main thread) created and that nobody has waited for.

    Raises:
        SyscallError: ENOENT also where the kernel lacks CONFIG_PROC_CHILDREN.

    """
    path = _task(pid, tid if tid is not None else pid, "children")
    return parse_children(_contents(path), path)


def list_fds(pid: int) -> tuple[int, ...]:
    """Return the fds of a process in increasing order; of the caller itself, the one that lists them is among them."""
    path = f"/proc/{pid}/fd"
    return parse_task_names(_entries(path), path)


def read_fdinfo(pid: int, fd: int) -> FdInfo:
    """Return position, flags and more of one open file."""
    path = f"/proc/{pid}/fdinfo/{fd}"
    return parse_fdinfo(_contents(path), path)


def read_fd_link(pid: int, fd: int) -> FdLink:
    """Return what one fd refers to, without opening it (stat and readlink only, so no FIFO or device blocks)."""
    path = f"/proc/{pid}/fd/{fd}"
    try:
        return parse_fd_link(os.readlink(os.fsencode(path)), os.stat(path).st_mode)
    except OSError as error:
        raise _failed("readlink", error, path) from None


def open_pagemap(pid: int) -> int:
    """Open /proc/PID/pagemap and return its fd, close-on-exec, that the caller owns."""
    path = f"/proc/{pid}/pagemap"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _failed("open", error, path) from None


def read_pagemap(pagemap: int, start: int, end: int) -> bytes:
    """Return the entries of the pages between two page-aligned addresses, for `pagemap.find_runs`.

    Arguments:
        pagemap: an fd of /proc/PID/pagemap, which stays the caller's.
        start: first address.
        end: first address behind.

    Raises:
        SyscallError: the process is gone, or the addresses lie beyond its address space (EIO: fewer entries).

    """
    size = (end - start) // _PAGE_SIZE * ENTRY_SIZE
    parts: list[bytes] = []
    done = 0
    while done < size:
        try:
            part = os.pread(pagemap, size - done, start // _PAGE_SIZE * ENTRY_SIZE + done)
        except OSError as error:
            raise _failed("pread", error, f"pagemap, {start:#x}-{end:#x}") from None
        if not part:
            raise SyscallError("pread", EIO, f"pagemap, {start:#x}-{end:#x}: {done} of {size} bytes")
        parts.append(part)
        done += len(part)
    return b"".join(parts)


def _task(pid: int, tid: int | None, name: str) -> str:
    return f"/proc/{pid}/{name}" if tid is None else f"/proc/{pid}/task/{tid}/{name}"


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError as error:
        raise _failed("getdents64", error, path) from None


def _contents(path: str) -> bytes:
    # Large reads, few calls: between two reads of one file the kernel may cut in another state.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _failed("open", error, path) from None
    parts = []
    try:
        while part := os.read(fd, _CHUNK):
            parts.append(part)
    except OSError as error:
        raise _failed("read", error, path) from None
    finally:
        os.close(fd)
    return b"".join(parts)


def _failed(call: str, error: OSError, path: str) -> SyscallError:
    return SyscallError(call, error.errno or EIO, path)
