"""What must hold within a checkpoint beyond the types of its fields; a save and a load ask the same."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.format import MAX_PROCESSES, MAX_REGISTERS, MAX_THREADS, process_folder
from sandlock_checkpoint.memory import Mapping, MappingKind, Run, SharedMemory
from sandlock_checkpoint.model import Checkpoint, ProcessInfo, SignalAction, ThreadState
from sandlock_checkpoint.open_files import (
    EpollFile,
    MemoryFile,
    NamedFile,
    PidFile,
    PipeEnd,
    SocketEnd,
    UnconnectedSocket,
)

__all__ = ["check_checkpoint"]

# The largest user address space of any architecture: 56 bits (x86_64 with LA57, riscv64 with Sv57; aarch64 has 52).
_HIGHEST = 1 << 56
_LARGEST_OBJECT = 1 << 62
_FAREST = (1 << 63) - 1  # OFFSET_MAX, linux/fs.h; a lock up to there has no end
_MOST_IDS = 1 << 32
_MOST_TID = 1 << 22  # PID_MAX_LIMIT, linux/threads.h
_SIGNALS = 64
_SIGINFO = 128  # sizeof(siginfo_t), every architecture
_RLIMITS = 16  # RLIM_NLIMITS, asm-generic/resource.h
_MOST_CPUS = 1 << 16  # more than any kernel is built for (NR_CPUS has 8192 at most)
_SOCKADDR = 128  # sizeof(struct sockaddr_storage), linux/socket.h
_WORD32, _WORD31 = 1 << 32, 1 << 31
_RESTARTS = ("", "again", "time_left", "lost")
_OF_OPENING = os.O_CREAT | os.O_EXCL | os.O_TRUNC
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


class _Checker:
    """Refuses with the file's name, and the path of the field in it."""

    def __init__(self, file: str) -> None:
        self.file = file

    def demand(self, field: str, reason: str, *, fact: bool) -> None:
        if not fact:
            raise ImageError(self.file, field, reason)

    def below(self, field: str, value: int, bound: int, low: int = 0) -> None:
        self.demand(field, f"{value} is not within {low}..{bound - 1}", fact=low <= value < bound)

    def path(self, field: str, value: bytes) -> None:
        self.demand(field, f"{value!r} is no absolute path", fact=value.startswith(b"/") and b"\0" not in value)

    def runs(self, field: str, runs: Sequence[Run], size: int, page: int) -> None:
        """Runs are pages, in order, apart from each other, and inside."""
        before = 0
        for index, (offset, length) in enumerate(runs):
            if offset < before or length <= 0 or offset % page or length % page or offset + length > size:
                raise ImageError(
                    self.file, f"{field}[{index}]", f"{offset}+{length} is out of order or size, or of no whole pages"
                )
            before = offset + length


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Check everything that one field says about another, and every bound.

    Raises:
        ImageError: something cannot be; `file` and `field` say where it stands in an image.

    """
    meta = _Checker("meta.json")
    page = checkpoint.page_size
    meta.demand("page_size", f"{page} is no page size", fact=page in (4096, 16384, 65536))
    meta.demand("architecture", "is no name", fact=0 < len(checkpoint.architecture) <= 32
                and _NAME.issuperset(checkpoint.architecture))  # fmt: skip
    count = len(checkpoint.processes)
    meta.below("processes", count, MAX_PROCESSES + 1, 1)
    _check_files(checkpoint)
    for index, memory in enumerate(checkpoint.shared):
        _check_shared(memory, index, page)
    for index, process in enumerate(checkpoint.processes):
        folder = process_folder(index)
        info = _Checker(f"{folder}/info.json")
        info.demand("parent", "is not the position of an earlier process",
                    fact=process.parent == -1 if index == 0 else 0 <= process.parent < index)  # fmt: skip
        alive = process.wait_status < 0 if index == 0 else checkpoint.processes[process.parent].wait_status < 0
        info.demand("wait_status" if index == 0 else "parent", "is one that has ended", fact=alive)
        _check_info(info, process)
        fds = _Checker(f"{folder}/fds.json")
        before = -1
        for place, one in enumerate(process.descriptors):
            field = f"descriptors[{place}]"
            fds.below(f"{field}.number", one.number, 1 << 31, before + 1)
            fds.below(f"{field}.file", one.file, len(checkpoint.files))
            before = one.number
        _check_mappings(_Checker(f"{folder}/memory_map.json"), process.mappings, len(checkpoint.shared), page)
        _check_threads(folder, process)
    pids = [process.pid for process in checkpoint.processes]
    meta.demand("processes", "have the same pid twice", fact=len(set(pids)) == count)


def _check_info(check: _Checker, process: ProcessInfo) -> None:
    check.below("pid", process.pid, _MOST_TID + 1, 1)
    for field in ("exe", "cwd", "root"):
        value: bytes = getattr(process, field)
        check.path(field, value)
    check.below("umask", process.umask, 0o1000)
    for field in ("uid", "gid", "groups"):
        ids: tuple[int, ...] = getattr(process, field)
        for index, one in enumerate(ids):
            check.below(f"{field}[{index}]", one, _MOST_IDS)
    check.demand("groups", "are too many", fact=len(process.groups) <= 1 << 16)  # NGROUPS_MAX
    check.below("exit_signal", process.exit_signal, _SIGNALS + 1, -1)
    _check_actions(check, process.actions)
    _check_pending(check, process.pending)
    seen: set[int] = set()
    for index, limit in enumerate(process.limits):
        check.below(f"limits[{index}].resource", limit.resource, _RLIMITS)
        check.demand(f"limits[{index}].resource", "is there twice", fact=limit.resource not in seen)
        seen.add(limit.resource)
    for index, timer in enumerate(process.posix_timers):
        check.below(f"posix_timers[{index}].id", timer.id, 1 << 31)
        check.below(f"posix_timers[{index}].signal", timer.signal, _SIGNALS + 1)
        check.below(f"posix_timers[{index}].notify", timer.notify, 8)
        check.below(f"posix_timers[{index}].clock", timer.clock, _WORD31, -_WORD31)
    for index, interval in enumerate(process.interval_timers):
        check.below(f"interval_timers[{index}].which", interval.which, 3)


def _check_actions(check: _Checker, actions: Iterable[SignalAction]) -> None:
    seen: set[int] = set()
    for index, action in enumerate(actions):
        check.below(f"actions[{index}].signal", action.signal, _SIGNALS + 1, 1)
        check.demand(f"actions[{index}].signal", "is there twice", fact=action.signal not in seen)
        seen.add(action.signal)


def _check_pending(check: _Checker, pending: Iterable[bytes]) -> None:
    for index, info in enumerate(pending):
        check.demand(f"pending[{index}]", f"has {len(info)} bytes, not {_SIGINFO}", fact=len(info) == _SIGINFO)


def _check_mappings(check: _Checker, mappings: Sequence[Mapping], shared: int, page: int) -> None:
    before = page  # address 0 is never mapped: what is there would be a kernel's null pointer
    for index, mapping in enumerate(mappings):
        field = f"mappings[{index}].mapping"
        end = 1 << 64 if mapping.kind is MappingKind.VSYSCALL else _HIGHEST
        check.below(f"{field}.start", mapping.start, end, before)
        check.below(f"{field}.end", mapping.end, end + 1, mapping.start + page)
        check.demand(f"{field}.start", "is not on a page", fact=not (mapping.start | mapping.end) % page)
        before = mapping.end
        check.below(f"{field}.prot", mapping.prot, 8)
        check.below(f"{field}.protection_key", mapping.protection_key, 16)
        check.below(f"{field}.offset", mapping.offset, _LARGEST_OBJECT)
        check.demand(f"{field}.file", "must be there for a file, and only then",
                     fact=(mapping.file is not None) == (mapping.kind is MappingKind.FILE))  # fmt: skip
        if mapping.file is not None:
            check.path(f"{field}.file.path", mapping.file.path)
        if mapping.kind is MappingKind.SHARED:
            check.below(f"{field}.memory", mapping.memory, shared)
        else:
            check.demand(f"{field}.memory", "belongs to no shared memory", fact=mapping.memory == -1)
        bare = mapping.shared or mapping.kind in (MappingKind.VVAR, MappingKind.VSYSCALL)
        check.demand(f"{field}.runs", "no contents can be here", fact=not (bare and mapping.runs))
        check.runs(f"{field}.runs", mapping.runs, mapping.size, page)
        check.runs(f"{field}.guards", mapping.guards, mapping.size, page)


def _check_shared(memory: SharedMemory, index: int, page: int) -> None:
    check = _Checker("process/memory_map.json")
    field = f"shared[{index}].memory"
    check.below(f"{field}.size", memory.size, _LARGEST_OBJECT)
    check.runs(f"{field}.runs", memory.runs, -(-memory.size // page) * page, page)
    kinds = ("anonymous", "memfd", "deleted")
    check.demand(f"{field}.kind", f"is none of {', '.join(kinds)}", fact=memory.kind in kinds)
    check.demand(f"{field}.name", "has a NUL byte", fact=b"\0" not in memory.name)


def _check_threads(folder: str, process: ProcessInfo) -> None:
    zombie = process.wait_status >= 0
    _Checker("meta.json").below("threads", len(process.threads), 1 if zombie else MAX_THREADS + 1, 0 if zombie else 1)
    tids: set[int] = set()
    for index, thread in enumerate(process.threads):
        check = _Checker(f"{folder}/threads/{index}.json")
        check.below("state.tid", thread.tid, _MOST_TID + 1, 1)
        check.demand("state.tid", f"{thread.tid} is there twice", fact=thread.tid not in tids)
        tids.add(thread.tid)
        _check_thread(check, thread)


def _check_thread(check: _Checker, thread: ThreadState) -> None:
    check.demand("state.name", "is no thread's name", fact=len(thread.name) <= 15 and b"\0" not in thread.name)
    _check_pending(check, thread.pending)
    check.below("state.syscall", thread.syscall, 1 << 31, -1)
    check.demand("state.restart", f"{thread.restart!r} is no way to go on", fact=thread.restart in _RESTARTS)
    check.below("state.signal_stack.flags", thread.signal_stack.flags, _WORD32)
    check.below("state.rseq.address", thread.rseq.address, _HIGHEST)
    scheduling = thread.scheduling
    check.below("state.scheduling.policy", scheduling.policy, _WORD31)
    check.below("state.scheduling.priority", scheduling.priority, _WORD31)
    check.below("state.scheduling.nice", scheduling.nice, 20, -20)
    check.demand("state.scheduling.affinity", "has a processor twice, or out of order",
                 fact=all(one < other for one, other in itertools.pairwise(scheduling.affinity)))  # fmt: skip
    for cpu in scheduling.affinity[-1:]:
        check.below("state.scheduling.affinity", cpu, _MOST_CPUS)
    check.below("state.parent_death_signal", thread.parent_death_signal, _SIGNALS + 1)
    check.demand("registers", "are missing", fact=bool(thread.registers))
    names = [registers.name for registers in thread.registers]
    check.demand("registers", "have the same name twice", fact=len(set(names)) == len(names))
    for index, registers in enumerate(thread.registers):
        good = 0 < len(registers.name) <= 32 and _NAME.issuperset(registers.name)
        check.demand(f"registers[{index}].name", f"{registers.name!r} is no name", fact=good)
        check.below(f"registers[{index}].note", registers.note, _WORD32)
        check.below(f"registers[{index}]", len(registers.data), MAX_REGISTERS + 1, 1)


def _check_files(checkpoint: Checkpoint) -> None:
    """What open files refer to exists."""
    check = _Checker("process/fds.json")
    processes, files = len(checkpoint.processes), len(checkpoint.files)
    for index, file in enumerate(checkpoint.files):
        field = f"files[{index}].target"
        target = file.target
        check.below(f"files[{index}].signal", file.signal, _SIGNALS + 1)
        # An open file never has them; to open a file again with them would make it, or empty it.
        check.demand(f"files[{index}].flags", "has O_CREAT, O_EXCL or O_TRUNC", fact=not file.flags & _OF_OPENING)
        if isinstance(target, NamedFile | MemoryFile):
            for place, lock in enumerate(target.locks):
                check.below(f"{field}.locks[{place}].process", lock.process, processes, -1)
                check.below(f"{field}.locks[{place}].start", lock.start, _FAREST)
                if lock.end != -1:
                    check.below(f"{field}.locks[{place}].end", lock.end, _FAREST, lock.start)
        if isinstance(target, NamedFile):
            check.path(f"{field}.identity.path", target.identity.path)
        elif isinstance(target, MemoryFile):
            check.below(f"{field}.memory", target.memory, len(checkpoint.shared))
        elif isinstance(target, PipeEnd):
            check.below(f"{field}.pipe", target.pipe, len(checkpoint.pipes))
        elif isinstance(target, SocketEnd):
            check.below(f"{field}.pair", target.pair, len(checkpoint.sockets))
            check.below(f"{field}.end", target.end, 2)
        elif isinstance(target, EpollFile):
            check.below(f"{field}.process", target.process, processes)
            for place, interest in enumerate(target.interests):
                check.below(f"{field}.interests[{place}].file", interest.file, files)
                check.below(f"{field}.interests[{place}].number", interest.number, _WORD31)
                check.below(f"{field}.interests[{place}].events", interest.events, _WORD32)
        elif isinstance(target, PidFile):
            check.below(f"{field}.process", target.process, processes)
        elif isinstance(target, UnconnectedSocket):
            check.below(f"{field}.address", len(target.address), _SOCKADDR + 1)
            for place, (_, _, value) in enumerate(target.options):
                check.below(f"{field}.options[{place}]", value, _WORD31, -_WORD31)
    for index, pipe in enumerate(checkpoint.pipes):
        check.below(f"pipes[{index}].capacity", pipe.capacity, 1 << 31, 1)
        check.below(f"pipes[{index}].data", len(pipe.data), pipe.capacity + 1)
    for index, pair in enumerate(checkpoint.sockets):
        check.demand(f"sockets[{index}].type", f"{pair.type} is none of 1, 2, 5", fact=pair.type in (1, 2, 5))
