"""max_memory: what the tree keeps in memory stays below a bound, or the process that grows is killed.

No allocation is trapped. The use is sampled, and the next sample is due when the tree could reach the limit at the
earliest; sampling never takes more than a hundredth of the time. What cannot be seen from outside is taken at its
source, in calls that are rare: memfds are made by the supervisor, which so can always look at them, and anonymous
shared memory counts by its whole size from the moment it is mapped.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from errno import EINVAL, EMFILE, ENAMETOOLONG, ENOMEM, ENOSPC, ESRCH
from functools import partial
from signal import SIGKILL
from typing import TYPE_CHECKING, TypeVar

from sandlock_notif import memory, usage
from sandlock_notif.action import Action, Errno, InjectFd
from sandlock_notif.daemon_executor import DaemonExecutor
from sandlock_notif.dispatch import HandlerTable, Outcome, Services, Trap
from sandlock_notif.errors import Refusal
from sandlock_notif.events import Event
from sandlock_notif.memory_pace import SHARE, SHORTEST_S, decide_offender, decide_period
from sandlock_notif.tree import between as processes_between
from sandlock_notif.tree import look
from sandlock_notif.usage import Use
from sandlock_policy.seccomp.rules import between, has_bits
from sandlock_sys import memfd, pidfd
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandlock_notif.processes import Process
    from sandlock_notif.request import Request

Seen = TypeVar("Seen")

__all__ = ["MemoryLimit", "decide_extents"]

_MAP_SHARED = 0x01  # asm-generic/mman-common.h; MAP_SHARED_VALIDATE has this bit too
_MAP_ANONYMOUS = 0x20  # asm-generic/mman-common.h
_MFD_CLOEXEC = 0x1  # linux/memfd.h, 3.17
_LARGEST = (1 << 63) - 1
_NAME_MAX = 250  # of a memfd, its NUL included
_MEMFDS = 256  # that live at once
_LARGE_SHARE = 10
_BLIND_S = 0.02  # so long it may fail to look before all ends
_UNSEEN = 4  # so many looks nobody holds a memfd before it is let go


@dataclass(slots=True)
class _Memfd:
    """One memfd: our copy of its fd, who made it, and how often nobody was seen to hold it."""

    fd: int
    owner: int
    unseen: int = 0


class MemoryLimit(HandlerTable):
    """Kills the process that takes the tree above `limit` bytes, and reports Event("limit", reason="memory").

    Arguments:
        limit: bytes: private pages (each counted once), page tables, memfds, anonymous shared mappings, files below
            `folders`.
        folders: writable ones in memory (tmpfs). What is there at the start does not count.

    Attributes:
        limit: may be changed while the sandbox runs.
        used: the use that was seen last.
        peak: the largest.

    """

    name = "memory"

    def __init__(self, limit: int, folders: Sequence[str | bytes] = ()) -> None:
        self.limit = limit
        self.used = self.peak = self._largest = 0
        self._folders = tuple(folders)
        self._services: Services | None = None
        self._task: asyncio.Task[None] | None = None
        # Page tables and mappings are read beside the loop: who changes a mapping makes the reader wait.
        self._reader = DaemonExecutor(1, "sandlock-memory")
        self._before: dict[int, int] = {}
        self._faults: dict[int, int] = {}
        self._dying: set[Process] = set()
        self._memfds: list[_Memfd] = []
        self._lent: list[int] = []  # sizes of anonymous shared memory that was let through since the last look
        self._extents: dict[usage.FileKey, int] = {}  # the largest that was known of each that is mapped
        self._by_pid: dict[int, int] = {}  # of what is no process's own alone, what each has
        self._by_pid_before: dict[int, int] = {}
        self._tables = 0
        self._seen_at = 0.0
        self._shared = 0  # of it, and of mapped files without a name, what was there at the last look
        self._slow_due = 0.0
        self._filed = 0
        self._reach_due = 0.0
        self._members: set[Process] = set()
        self._started = False
        self._outside: frozenset[int] = frozenset()
        self._twice = 0  # what forks share and `usage.anonymous` counts in each, at the last walk of page tables
        self._precise_due = 0.0
        self._due = asyncio.Event()

    def traps(self) -> Sequence[Trap]:
        """The two ways to memory that no process shows as its own."""
        return (
            Trap("memfd_create", self._memfd, "its pages count, whoever holds it", (), "memory"),
            Trap(
                "mmap",
                self._map,
                "anonymous shared memory counts by its size",
                (has_bits(3, _MAP_SHARED), has_bits(3, _MAP_ANONYMOUS)),
            ),
            Trap(
                "fallocate",
                self._allocate,
                "a memfd that one call would make too large",
                (between(3, self.limit // 8, _LARGEST, wide=True),),
            ),
        )

    def attach(self, services: Services) -> None:
        """Begin to sample."""
        self._services = services
        self._at_start = sum(usage.folder_bytes(folder) for folder in self._folders)
        self._outside = processes_between(services.processes.root, services.pid)
        self._members = {services.processes.register(services.pid)}
        self._task = services.loop.create_task(self._watch(services))

    def writes_below(self, folder: str) -> None:
        """Count what is written below a folder in memory that was made for this run."""
        self._folders = (*self._folders, folder)

    def controls(self) -> Mapping[str, Callable[..., None]]:
        """Let the limit be lowered."""
        return {"restrict_max_memory": self._lower}

    def _lower(self, limit: int) -> None:
        self.limit, self._precise_due = min(self.limit, limit), 0.0
        if self._services is not None:  # the next look was planned for a higher limit
            self._services.loop.call_soon_threadsafe(self._due.set)

    def largest_use(self) -> int:
        """Return the largest use since this was asked last."""
        largest, self._largest = self._largest, self.used
        return largest

    async def close(self) -> None:
        """Stop sampling and let the memfds go."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._reader.shutdown(wait=False, cancel_futures=True)
        while self._memfds:
            os.close(self._memfds.pop().fd)

    async def _memfd(self, request: Request) -> Action:
        flags = request.args[1] & 0xFFFFFFFF
        try:
            name = memory.read_string(request, request.args[0], _NAME_MAX)
        except Refusal as refusal:
            return Errno(EINVAL if refusal.errno == ENAMETOOLONG else refusal.errno, refusal.reason)
        for _ in range(_UNSEEN):
            if len(self._memfds) >= _MEMFDS:
                await self._look_slowly()
        if len(self._memfds) >= _MEMFDS:
            return Errno(EMFILE, f"{_MEMFDS} memfds are in use")
        assert self._services is not None  # noqa: S101  # attached before the first request
        owner = self._services.processes.of(request).pid
        try:
            fd = memfd.create(name, flags | _MFD_CLOEXEC)
        except SyscallError as error:
            return Errno(error.errno or EINVAL)
        self._memfds.append(_Memfd(fd, owner))
        return InjectFd(fd, close_on_exec=bool(flags & _MFD_CLOEXEC), owned=False)

    def _map(self, request: Request) -> Outcome:
        if self._shared + sum(self._lent) + request.args[1] > self.limit:
            return self._map_late(request)
        self._lent.append(request.args[1])
        return None

    async def _map_late(self, request: Request) -> Action | None:
        await self._look_slowly()
        if self._shared + sum(self._lent) + request.args[1] > self.limit:
            return Errno(ENOMEM, "max_memory: a shared mapping larger than what is left")
        self._lent.append(request.args[1])
        return None

    def _allocate(self, request: Request) -> Action | None:
        """Refuse what the limit has no room for: one call fills a memfd faster than any sampling sees."""
        offset, length = request.args[2], request.args[3]
        held = usage.file_of(request.tid, request.int_arg(0))
        if held is None or not request.waits():
            return None
        room = self.limit - sum(usage.file_bytes(one.fd) for one in self._memfds)
        if any(usage.file_key(one.fd) == held for one in self._memfds) and offset + length > room:
            return Errno(ENOSPC, "max_memory: a memfd larger than what is left")
        return None

    async def _watch(self, services: Services) -> None:
        """Sample for ever. What cannot be measured for some time ends."""
        self._seen_at = services.loop.time()
        while True:
            begin = time.thread_time()
            used = self.limit
            try:
                # Until its exec the first process has the memory of whoever launched it.
                self._started = self._started or usage.has_executed(services.pid)
                used = await self._look(services) if self._started else 0
                self.used, self.peak = used, max(self.peak, used)
                self._largest = max(self._largest, used)
                self._seen_at = services.loop.time()
            except Exception as error:  # noqa: BLE001  # whatever it is, growth would go unseen
                if services.loop.time() - self._seen_at >= _BLIND_S:
                    self._end_all(services, str(error))
                    self._seen_at = services.loop.time()
            cost = time.thread_time() - begin
            timer = services.loop.call_later(decide_period(max(self.limit - used, 0), cost), self._due.set)
            await self._due.wait()
            self._due.clear()
            timer.cancel()

    async def _look(self, services: Services) -> int:
        now = services.loop.time()
        if now >= self._reach_due:
            self._find_members(services, now)
        if now >= self._slow_due:
            await self._look_slowly()
        members = [member for member in self._members if not member.gone and member not in self._dying]
        bound = {member: usage.anonymous(member.pid) for member in members}
        total = self._other() + sum(bound.values())
        if total <= self.limit:
            self._before = {member.pid: size for member, size in bound.items()}
            return total
        if total - self._twice <= self.limit and now < self._precise_due:
            return total - self._twice
        return await self._look_precisely(services, bound)

    def _other(self) -> int:
        """Return what is in memory and no process's own."""
        leaving = sum(self._by_pid.get(member.pid, 0) for member in self._dying)
        # Without what was lent: a look under way may have found it mapped, and it would count twice.
        known = self._filed + self._tables + self._shared - leaving
        return max(known, 0) + sum(usage.file_bytes(one.fd) for one in self._memfds)

    async def _look_precisely(self, services: Services, bound: dict[Process, int]) -> int:
        """Count each page once, and kill if it is too much even so."""
        pids = [member.pid for member in bound]
        (exact, faults), cost = await services.loop.run_in_executor(
            self._reader, _timed, partial(usage.proportional_of, pids)
        )
        other = self._other()
        total = other + sum(exact.values())
        self._twice = sum(bound.values()) - sum(exact.values())
        self._precise_due = services.loop.time() + decide_period(self.limit - total, cost, _LARGE_SHARE)
        if total > self.limit:
            idle = {pid for pid, count in faults.items() if self._faults.get(pid) == count}
            self._kill(services, {member: exact.get(member.pid, 0) for member in bound if not member.gone}, total, idle)
        self._before, self._faults = exact, faults
        return total

    def _find_members(self, services: Services, now: float) -> None:
        begin = time.thread_time()
        found, _, complete = look(services.processes, self._outside)
        if not complete:  # whoever was missed may still be there
            found |= {member for member in self._members if not member.gone}
        if found != self._members:
            self._members, self._precise_due = found, 0.0
        if not self._dying <= self._members:  # what they had is free: look before anybody is blamed for it
            self._dying &= self._members
            self._slow_due = 0.0
        self._reach_due = now + max(SHORTEST_S, (time.thread_time() - begin) * _LARGE_SHARE)

    async def _look_slowly(self) -> None:
        """Look at what only mappings, descriptors and folders tell."""
        assert self._services is not None  # noqa: S101  # set by attach
        pids = [member.pid for member in self._members]
        lent, known = len(self._lent), list(self._memfds)
        around = partial(usage.look_around, pids, self._folders)
        seen, cost = await self._services.loop.run_in_executor(self._reader, _timed, around)
        # What was let through before and is not mapped yet is found at the next look.
        extents = seen.shared | seen.nameless
        self._extents = decide_extents(self._extents, seen.shared, self._lent[:lent], extents, complete=seen.complete)
        del self._lent[:lent]
        self._shared = sum(self._extents.values())
        filed = max(seen.filed - self._at_start, 0)
        self._filed, self._tables = filed if seen.complete else max(filed, self._filed), seen.tables
        self._by_pid_before, self._by_pid = self._by_pid, seen.by_pid
        for one in known:
            if one not in self._memfds:  # another look, at the same time, let it go
                continue
            found = usage.file_key(one.fd) in seen.held or seen.in_flight or not seen.complete
            one.unseen = 0 if found else one.unseen + 1
            if one.unseen >= _UNSEEN:
                self._memfds.remove(one)
                with suppress(OSError):  # sealed
                    os.ftruncate(one.fd, 0)  # whoever has it nevertheless, hidden, keeps nothing in it
                os.close(one.fd)
        usual = self._extents or self._memfds or self._folders
        share = _LARGE_SHARE if usual else SHARE
        self._slow_due = self._services.loop.time() + max(SHORTEST_S * 10, cost * share)

    def _kill(self, services: Services, uses: dict[Process, int], total: int, idle: set[int]) -> None:
        """Kill until what is left is within the limit."""
        owner = max(self._memfds, key=lambda one: usage.file_bytes(one.fd)).owner if self._memfds else 0
        left = {member: size + self._by_pid.get(member.pid, 0) for member, size in uses.items()}
        before = {pid: size + self._by_pid_before.get(pid, 0) for pid, size in self._before.items()}
        excess = total - self.limit
        while excess > 0:
            listed = [Use(each.pid, now, before.get(each.pid, 0), each.pid in idle) for each, now in left.items()]
            pid = decide_offender(listed, owner)
            member = next((each for each in left if each.pid == pid), None)
            if member is None:
                return
            excess -= max(left.pop(member), 1)
            if pid == owner:
                excess -= sum(usage.file_bytes(one.fd) for one in self._memfds if one.owner == owner)
            self._dying.add(member)
            if not _end(member):
                self._end_all(services, f"process {pid} cannot be ended")
                return
            detail = {"pid": member.pid, "used": total, "limit": self.limit}
            services.report(Event("limit", reason="memory", detail=detail))

    def _end_all(self, services: Services, why: str) -> None:
        services.report(Event("limit", reason="memory: cannot be measured", detail={"error": why, "limit": self.limit}))
        if services.end is not None:
            services.end()
        else:
            for member in services.processes.snapshot():
                _end(member)


def _end(member: Process) -> bool:
    """Kill a process, and tell whether it is dead or dying. By pidfd, so that nobody else can be hit."""
    fd = member.pidfd
    try:
        if fd < 0:  # there was none left when it was found
            fd = pidfd.open_pidfd(member.pid)
        if member.alive():
            pidfd.send_signal(fd, SIGKILL)
    except SyscallError as error:
        return error.errno == ESRCH
    finally:
        if fd >= 0 and fd != member.pidfd:
            os.close(fd)
    return True


def decide_extents(
    before: Mapping[usage.FileKey, int],
    anonymous: Mapping[usage.FileKey, int],
    lent: Sequence[int],
    seen: Mapping[usage.FileKey, int],
    *,
    complete: bool,
) -> dict[usage.FileKey, int]:
    """Return the size of each memory that is mapped: its pages stay, whatever part of it is unmapped.

    Arguments:
        before: the answer of the look before.
        anonymous: of `seen`, what came by calls that were let through.
        lent: the sizes in those calls. Which belongs to which is not known: the largest are counted.
        seen: how far mappings reach now.
        complete: whether all were seen; else what is missing stays.

    """
    found = dict(seen) if complete else {**before, **seen}
    fresh = sorted((key for key in anonymous if key not in before), key=lambda key: -anonymous[key])
    for key, size in zip(fresh, sorted(lent, reverse=True), strict=False):
        found[key] = max(found[key], size)
    for key in found.keys() & before.keys():
        found[key] = max(found[key], before[key])
    return found


def _timed(look: Callable[[], Seen]) -> tuple[Seen, float]:
    begin = time.thread_time()
    return look(), time.thread_time() - begin
