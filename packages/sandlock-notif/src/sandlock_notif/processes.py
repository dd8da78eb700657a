"""The processes of one sandbox: an index by (process id, start time), never by thread id.

Safety: a pid is looked up in /proc and may be recycled between two looks. Each entry holds a pidfd, opened before the
start time was read and found alive after, so the entry and the fd mean the same process for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EMFILE, ENFILE, ENOENT, EPERM, ESRCH
from typing import TYPE_CHECKING, TypeVar, cast

from sandlock_notif.errors import VanishedError
from sandlock_notif.task_facts import descends
from sandlock_sys import pidfd
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import read_stat, read_status

if TYPE_CHECKING:
    import asyncio

    from sandlock_notif.request import Request

__all__ = ["MAX_PIDFDS", "Process", "Processes"]

State = TypeVar("State")

MAX_PIDFDS = 256
"""Pidfds that the index of one sandbox holds: its program decides how many processes there are, and the fds are the
host's. Further processes are known by pid and start time alone."""
_PRUNE = 64  # further processes, between two looks which of them have ended


class Process:
    """One process of the sandbox, alive or just gone.

    Attributes:
        pid: its id (the thread group's).
        start: when it started, in clock ticks since boot: with the pid, its identity.
        pidfd: of the process, owned by the index; -1 when this process had no fd left to open it.

    """

    __slots__ = ("_states", "gone", "pid", "pidfd", "start", "tids")

    def __init__(self, pid: int, start: int, process_fd: int) -> None:
        self.pid = pid
        self.start = start
        self.pidfd = process_fd
        self.gone = False
        self.tids: set[int] = set()
        self._states: dict[type, object] = {}

    @property
    def key(self) -> tuple[int, int]:
        """(pid, start time): what state outside this object may be kept under."""
        return self.pid, self.start

    def state(self, kind: type[State], make: Callable[[], State] | None = None) -> State:
        """Return this process's state of a domain, made on first use; it is freed with the process.

        `make` is `kind` without arguments where it is None.
        """
        found = self._states.get(kind)
        if found is None:
            found = self._states[kind] = make() if make is not None else kind()
        return cast("State", found)

    def forget(self, kind: type) -> None:
        """Drop the state of a domain, after an exec say."""
        self._states.pop(kind, None)

    def alive(self) -> bool:
        """Whether it has not ended; a zombie has."""
        if self.gone:
            return False
        if self.pidfd >= 0:
            return not pidfd.wait(self.pidfd, 0)
        with suppress(OSError):
            found = read_stat(self.pid)
            # A first thread that has ended is a zombie as long as others run.
            return found.starttime == self.start and (found.state not in "ZX" or found.num_threads > 1)
        return False

    def take_fd(self, number: int) -> int:
        """Return a copy of the process's fd `number`, which the caller closes; SyscallError as pidfd_getfd(2)."""
        with self._opened() as own:
            return pidfd.getfd(own, number)

    def send_signal(self, number: int) -> None:
        """Signal the process, and nobody else; SyscallError ESRCH when it is gone."""
        with self._opened() as own:
            pidfd.send_signal(own, number)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Lend the index's pidfd or, where there was no room for one, another for the moment.

        Safety: the start time is read while the new one is open, and it is alive afterwards: it is this process's.
        """
        if self.pidfd >= 0:
            yield self.pidfd
            return
        own = pidfd.open_pidfd(self.pid)
        try:
            if read_stat(self.pid).starttime != self.start:
                raise SyscallError("pidfd_open", ESRCH, f"process {self.pid} has ended")
            pidfd.send_signal(own, 0)
            yield own
        finally:
            os.close(own)

    def __repr__(self) -> str:
        return f"<Process {self.pid}@{self.start}{' gone' if self.gone else ''}>"


class Processes:
    """The index. With a loop, each process is watched by its pidfd and leaves the index when it ends.

    Arguments:
        loop: whose reader callbacks watch the pidfds; None: `prune` has to be called.
        root: process id that all members descend from (the guard, which is no member), or 0 when unknown.

    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, root: int = 0) -> None:
        self._loop = loop
        self.root = root
        self._by_pid: dict[int, Process] = {}
        self._by_tid: dict[int, Process] = {}
        self._welcomers: list[Callable[[Process], None]] = []
        self._watchers: list[Callable[[Process], None]] = []
        self._open = 0
        self._unwatched = 0
        self.largest_pid = 0

    def on_start(self, welcomer: Callable[[Process], None]) -> None:
        """Call `welcomer` with every process that enters the index, which may be long after it was made."""
        self._welcomers.append(welcomer)

    def on_exit(self, watcher: Callable[[Process], None]) -> None:
        """Call `watcher` with every process that leaves the index, after it has ended."""
        self._watchers.append(watcher)

    def of(self, request: Request) -> Process:
        """Return the process that the calling thread belongs to, registered if it is new.

        Raises:
            VanishedError: the task no longer waits.

        """
        tid = request.tid
        known = self._by_tid.get(tid)
        if known is not None and not known.gone and _has_thread(known, tid):
            return known
        try:
            process = self.register(_leader_of(tid))
        except (OSError, ValueError) as error:
            raise VanishedError from error
        if not request.waits():
            raise VanishedError
        self._by_tid[tid] = process
        process.tids.add(tid)
        return process

    def register(self, pid: int) -> Process:
        """Return the entry of process `pid`, made if it is new; a recycled pid replaces what had it before.

        Raises:
            OSError: there is no such process.

        """
        known = self._by_pid.get(pid)
        if known is not None and known.alive():
            return known
        if known is not None:
            self.unregister(known)
        process_fd = _open_pidfd(pid) if self._open < MAX_PIDFDS else -1
        try:
            start = _start_of(pid)
            if process_fd >= 0:
                pidfd.send_signal(process_fd, 0)  # ESRCH: reaped meanwhile, so the start time may be another's
        except BaseException as error:
            if process_fd >= 0:
                os.close(process_fd)
            if isinstance(error, OSError) and error.errno == EPERM:
                raise ProcessLookupError(ESRCH, f"process {pid} became another user's") from error
            raise
        process = self._by_pid[pid] = Process(pid, start, process_fd)
        self.largest_pid = max(self.largest_pid, pid)
        if process_fd < 0:
            self._unwatched += 1
            if not self._unwatched % _PRUNE:  # nobody tells when these end
                self.prune()
        else:
            self._open += 1
            if self._loop is not None:
                self._loop.add_reader(process_fd, self._ended, process)
        for welcomer in self._welcomers:
            welcomer(process)
        return process

    def unregister(self, process: Process) -> None:
        """Forget exactly this process; never one that has its pid now."""
        if process.gone:
            return
        process.gone = True
        if self._by_pid.get(process.pid) is process:
            del self._by_pid[process.pid]
        for tid in process.tids:
            if self._by_tid.get(tid) is process:
                del self._by_tid[tid]
        if process.pidfd >= 0:
            if self._loop is not None:
                self._loop.remove_reader(process.pidfd)
            os.close(process.pidfd)
            process.pidfd = -1
            self._open -= 1
        for watcher in self._watchers:
            watcher(process)

    def prune(self) -> None:
        """Forget every process that has ended."""
        for process in self.snapshot():
            if not process.alive():
                self.unregister(process)

    def close(self) -> None:
        """Forget all, and close every pidfd."""
        for process in self.snapshot():
            self.unregister(process)

    def get(self, pid: int) -> Process | None:
        """Return the registered process with this id, if it is alive."""
        known = self._by_pid.get(pid)
        return known if known is not None and known.alive() else None

    def contains(self, pid: int) -> bool:
        """Tell whether `pid`, a process or a thread, belongs to the sandbox: registered, or descended from the root."""
        if self.get(pid) is not None:
            return True
        with suppress(OSError, ValueError):
            leader = _leader_of(pid)
            if self.get(leader) is not None:
                return True
            return self.root > 0 and self._may_descend(leader) and self._adopt(leader)
        return False

    def snapshot(self) -> tuple[Process, ...]:
        """Return the registered processes at this moment."""
        return tuple(self._by_pid.values())

    def __len__(self) -> int:
        return len(self._by_pid)

    def __iter__(self) -> Iterator[Process]:
        return iter(self.snapshot())

    def _may_descend(self, pid: int) -> bool:
        """Whether it looks so; cheap, since most numbers that are asked for are of processes outside."""
        for _ in range(4096):  # a chain of parents cannot be a circle, but /proc is read while it changes
            if pid <= 1 or pid == os.getpid():
                return False
            pid = read_stat(pid).ppid
            if pid == self.root:
                return True
        return False

    def _adopt(self, pid: int) -> bool:
        """Register a process if it really descends from the root.

        Safety: parents end, and their numbers are given away, while they are looked at. The folder is bound to the
        process that is asked about; it is alive once that is registered, so the number was its own meanwhile.
        """
        folder = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not descends(folder, self.root):
                return False
            found = self.register(pid)
            try:
                os.stat("stat", dir_fd=folder)
            except OSError:
                self.unregister(found)
                return False
            return True
        finally:
            os.close(folder)

    def _ended(self, process: Process) -> None:
        self.unregister(process)


def _open_pidfd(pid: int) -> int:
    try:
        return pidfd.open_pidfd(pid)
    except SyscallError as error:
        if error.errno in (EMFILE, ENFILE):  # ours to bear: the start time alone identifies it then
            return -1
        if error.errno in (ESRCH, ENOENT):
            raise ProcessLookupError(ESRCH, f"there is no process {pid}") from error
        raise


def _has_thread(process: Process, tid: int) -> bool:
    if not process.alive():
        return False
    # The process lives, so nobody else can have its pid; a thread that is listed below it is its own.
    return tid == process.pid or os.access(f"/proc/{process.pid}/task/{tid}", os.F_OK)


def _leader_of(tid: int) -> int:
    return read_status(tid).tgid


def _start_of(pid: int) -> int:
    return read_stat(pid).starttime
