"""max_disk: what a branch holds stays below a bound, and what does not fit is refused with ENOSPC.

The branch itself counts what is made, copied and removed. Here are the calls that fill a file through an fd: each is
asked about by its size before the kernel runs it, and what it may add counts until it has ended. A shared mapping
fills holes without a call, so those count from the moment a file is mapped.

What a call writes to is looked at by its fd, and of a vector by its lengths, before the kernel looks again. A program
that changes them in between gets past this one question; the next count sees what it wrote, everything is refused from
then on, and where an eighth more than the limit was written, all ends.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from errno import EACCES, ENOENT, ENOMEM, ENOSPC, ENOSYS, EOPNOTSUPP, ESRCH
from stat import S_ISREG
from struct import iter_unpack
from typing import TYPE_CHECKING, TypeAlias

from sandlock_cow import BranchError, BranchQuotaError
from sandlock_notif import memory
from sandlock_notif.action import Errno
from sandlock_notif.dispatch import HandlerTable, Trap
from sandlock_notif.errors import Refusal
from sandlock_notif.events import Event
from sandlock_policy.seccomp.rules import has_bits, lacks_bits, one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlock_cow import Branch
    from sandlock_notif.dispatch import Outcome, Services
    from sandlock_notif.request import Request

__all__ = ["DiskLimit"]

Size: TypeAlias = "Callable[[Request], int]"

_MAP_SHARED = 0x01  # asm-generic/mman-common.h; MAP_SHARED_VALIDATE has this bit too
_MAP_ANONYMOUS = 0x20  # asm-generic/mman-common.h
_IOV_MAX = 1024  # UIO_MAXIOV, linux/uio.h
_RW_MAX = 0x7FFFF000  # MAX_RW_COUNT, linux/fs.h: what one call writes at most
_BLOCK = 4096  # of most file systems; the next count sees larger ones
_KEEP_SIZE = 0x01  # FALLOC_FL_KEEP_SIZE, linux/falloc.h; other modes free, move or write what is there
# linux/fs.h and linux/falloc.h: FICLONE, FICLONERANGE, FS_IOC_RESVSP, FS_IOC_RESVSP64, FS_IOC_ZERO_RANGE
_FILLING_IOCTLS = (0x40049409, 0x4020940D, 0x40305828, 0x4030582A, 0x40305839)
_FULL = Errno(ENOSPC, "max_disk: more than what is left")
_PERIOD_S = 0.1
_SHARE = 8  # of the limit: so much more is borne before all ends
_SLACK = 16 << 20


class DiskLimit(HandlerTable):
    """Refuses what a branch has no room for, and reports Event("limit", reason="disk") where that was passed by.

    Arguments:
        branch: with `limit` as its quota. The table only borrows it.
        limit: bytes.

    """

    name = "disk"

    def __init__(self, branch: Branch, limit: int) -> None:
        self._branch = branch
        self._limit = limit
        self._task: asyncio.Task[None] | None = None
        self._lent = 0  # bytes that calls were let through with since the last count
        self._under_way: dict[int, tuple[int, int]] = {}  # thread -> its last such call: number, bytes

    def traps(self) -> Sequence[Trap]:
        """The calls that take blocks through an fd."""
        counted = "the bytes must fit into max_disk"
        return (
            self._trap("write", 0, _at(2), _position),
            self._trap("pwrite64", 0, _at(2), _at(3)),
            self._trap("writev", 0, _of_vector, _position, cost="memory"),
            *(self._trap(name, 0, _of_vector, _at(3), cost="memory") for name in ("pwritev", "pwritev2")),
            self._trap("sendfile", 0, _from(1, 3), _position),
            self._trap("copy_file_range", 2, _from(0, 4), _at_pointer),
            self._trap("splice", 2, _at(4), _at_pointer),
            Trap("fsetxattr", self._set_attribute, "attributes take blocks", cost="memory"),
            Trap("fallocate", self._allocate, counted),
            Trap("ftruncate", self._truncate, "the holes of a mapped file must fit into max_disk"),
            Trap(
                "mmap",
                self._map,
                "the holes of the file must fit into max_disk",
                (has_bits(3, _MAP_SHARED), lacks_bits(3, _MAP_ANONYMOUS)),
            ),
            *(Trap(name, lambda _: Errno(ENOSYS), f"queued, {counted}") for name in ("io_setup", "io_submit")),
            Trap("ioctl", lambda _: Errno(EOPNOTSUPP), counted, (one_of(1, *_FILLING_IOCTLS),)),
        )

    def _trap(self, name: str, fd_at: int, size: Size, offset: Size, cost: str = "answer") -> Trap:
        def handle(request: Request) -> Outcome:
            return self._write(request, fd_at, size, offset)

        return Trap(name, handle, "the bytes must fit into max_disk", cost=cost)

    def attach(self, services: Services) -> None:
        """Begin to look at what was written past the calls."""
        self._task = services.loop.create_task(self._watch(services))

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _write(self, request: Request, fd_at: int, size: Size, offset: Size) -> Outcome:
        self._under_way.pop(request.tid, None)  # it makes another call, so that one has ended
        found = self._is_ours(request, fd_at)
        if found is None:
            return None
        length = min(size(request), _RW_MAX)
        wanted = (length + 2 * _BLOCK - 2) // _BLOCK * _BLOCK  # a byte into a hole takes a block
        if length and self._branch.books.is_mapped(found):  # and one far behind the end makes a hole
            wanted = max(wanted, offset(request) + length - found.st_size)
        return None if self._lend(request, wanted) else _FULL

    def _set_attribute(self, request: Request) -> Outcome:
        """Have what gets an extended attribute looked at again, beside the room for it."""
        self._under_way.pop(request.tid, None)
        if self._is_ours(request, 0, any_kind=True) is None:
            return None
        if not self._lend(request, request.args[3] + _BLOCK):
            return _FULL
        fd = os.open(f"/proc/{request.tid}/fd/{request.int_arg(0)}", os.O_PATH | os.O_CLOEXEC)
        try:
            if self._branch.books.holds(os.fstat(fd)):
                self._branch.books.watch_attributes(fd)
        finally:
            os.close(fd)
        return None

    def _is_ours(self, request: Request, fd_at: int, *, any_kind: bool = False) -> os.stat_result | None:
        """Return the attributes of the branch's file that an argument names by its fd, None for anything else.

        Raises:
            Refusal: whose it is cannot be seen.

        """
        try:
            found = os.stat(f"/proc/{request.tid}/fd/{request.int_arg(fd_at)}")
        except OSError as error:
            if error.errno in (ENOENT, ESRCH):  # there is none: the kernel says so
                return None
            # EACCES: not dumpable. ENOMEM and others: ours. Neither may let the call through (NOT-08).
            raise Refusal(error.errno or EACCES, "max_disk: what is written to cannot be seen") from error
        return found if (any_kind or S_ISREG(found.st_mode)) and self._branch.books.holds(found) else None

    def _lend(self, request: Request, size: int) -> bool:
        """Tell whether `size` more bytes fit, and let them count until the call has ended."""
        if self._branch.books.known() + self._lent + size > self._limit:
            self._forget_ended()
            used = self._branch.usage().allocated
            self._lent = sum(lent for _, lent in self._under_way.values())
            if used + self._lent + size > self._limit:
                return False
        self._lent += size
        self._under_way[request.tid] = request.nr, size
        return True

    def _forget_ended(self) -> None:
        """Let the calls go that their threads are not in any more."""
        for tid, (nr, _) in list(self._under_way.items()):
            with suppress(OSError):
                with open(f"/proc/{tid}/syscall", "rb") as told:
                    words = told.read().split()
                if words[:1] == [b"running"] or words[:1] == [b"%d" % nr]:
                    continue
            del self._under_way[tid]

    def _allocate(self, request: Request) -> Outcome:
        self._under_way.pop(request.tid, None)
        found = self._is_ours(request, 0)
        if found is None:
            return None
        if request.int_arg(1) & ~_KEEP_SIZE:
            return Errno(EOPNOTSUPP, "max_disk: only what takes blocks can be counted")
        return None if self._lend(request, request.args[3]) else _FULL

    def _truncate(self, request: Request) -> Outcome:
        self._under_way.pop(request.tid, None)
        found = self._is_ours(request, 0)
        if found is None or not self._branch.books.is_mapped(found):
            return None
        growth = max(request.args[1] - found.st_size, 0)
        return None if self._lend(request, growth) else _FULL

    def _map(self, request: Request) -> Outcome:
        """Count the holes of a file that may be written through its mapping."""
        if self._is_ours(request, 4) is None or not _is_writable(request, request.int_arg(4)):
            return None
        fd = os.open(f"/proc/{request.tid}/fd/{request.int_arg(4)}", os.O_PATH | os.O_CLOEXEC)
        try:
            # Safety: what is held need not be what was looked at, so it is looked at itself.
            if self._branch.books.holds(os.fstat(fd)):
                self._branch.books.map(fd)
        except BranchQuotaError:
            return Errno(ENOMEM, "max_disk: the holes of the file do not fit")
        finally:
            os.close(fd)
        return None

    async def _watch(self, services: Services) -> None:
        """End everything where much more than the limit was written past the calls."""
        most = self._limit + self._limit // _SHARE + _SLACK
        while True:
            await asyncio.sleep(_PERIOD_S)
            try:
                used = self._branch.usage().allocated
            except OSError:  # it could not be counted this time
                continue
            except BranchError:  # closed
                return
            if used > most and services.end is not None:
                detail = {"used": used, "limit": self._limit}
                services.report(Event("limit", reason="disk", detail=detail))
                services.end()
                return


def _at(index: int) -> Size:
    return lambda request: request.args[index]


def _from(source_at: int, size_at: int) -> Size:
    """What comes from a file is no more than the file has: programs ask for all of it with the largest number.

    Files of /proc say that they have nothing, and give little.
    """

    def size(request: Request) -> int:
        with suppress(OSError):
            found = os.stat(f"/proc/{request.tid}/fd/{request.int_arg(source_at)}")
            if S_ISREG(found.st_mode):
                return min(request.args[size_at], max(found.st_size, 1))
        return request.args[size_at]

    return size


def _at_pointer(request: Request) -> int:
    """The offset that the fourth argument points to; where it is null, the position of the third's file."""
    if not request.args[3]:
        return _position(request, 2)
    return int.from_bytes(memory.read(request, request.args[3], 8), "little")


def _position(request: Request, fd_at: int = 0) -> int:
    with suppress(OSError, ValueError), open(f"/proc/{request.tid}/fdinfo/{request.int_arg(fd_at)}", "rb") as info:
        return int(info.readline().split()[1])
    return 0


def _of_vector(request: Request) -> int:
    count = request.args[2] & 0xFFFFFFFF  # import_iovec() takes an unsigned int: of all 64 bits it sees no more
    if count > _IOV_MAX:
        return 0  # EINVAL, from the kernel
    return sum(length for _, length in iter_unpack("=QQ", memory.read(request, request.args[1], count * 16)))


def _is_writable(request: Request, fd: int) -> bool:
    with suppress(OSError, ValueError), open(f"/proc/{request.tid}/fdinfo/{fd}", "rb") as info:
        for line in info:
            if line.startswith(b"flags:"):
                return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return True
