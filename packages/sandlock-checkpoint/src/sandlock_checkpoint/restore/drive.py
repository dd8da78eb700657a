"""Restore a checkpoint: from a fresh, confined, stopped child to the process that was captured."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import sandlock_arch
from sandlock_arch import Architecture
from sandlock_checkpoint.errors import InjectionError, RestoreError
from sandlock_checkpoint.memory import Area
from sandlock_checkpoint.model import Checkpoint, ProcessInfo
from sandlock_checkpoint.own_vdso import own_vdso_digest
from sandlock_checkpoint.restore.birth import Birth, Ids, become_zombie, drop_powers, fork_child, give_birth
from sandlock_checkpoint.restore.channel import Channel
from sandlock_checkpoint.restore.filling import Filler
from sandlock_checkpoint.restore.groups import join_groups
from sandlock_checkpoint.restore.lazy import DISCARD, LazyMapper
from sandlock_checkpoint.restore.libc_locks import rename_holders
from sandlock_checkpoint.restore.mappings import MappingBuilder
from sandlock_checkpoint.restore.next_ids import NextIds
from sandlock_checkpoint.restore.open_files import FileMaker, give_numbers, open_pidfds
from sandlock_checkpoint.restore.plan import check_host, list_skipped
from sandlock_checkpoint.restore.program import execute_program
from sandlock_checkpoint.restore.settings import (
    arm_timers,
    queue_signals,
    restore_actions,
    restore_settings,
    set_dumpable,
)
from sandlock_checkpoint.restore.shared import make_shared, seal_shared
from sandlock_checkpoint.restore.space import clear_space, leave_scratch, set_layout
from sandlock_checkpoint.restore.stub import await_stub, open_stub, spawn_stub
from sandlock_checkpoint.restore.target import Target
from sandlock_checkpoint.restore.threads import (
    finish_thread,
    make_threads,
    patch_tid,
    prepare_thread,
    register_rseq,
    resume_wait,
)
from sandlock_checkpoint.terms import Unsupported
from sandlock_checkpoint.tracing import TraceeGoneError, TraceeStuckError
from sandlock_sys import pidfd, ptrace
from sandlock_sys.errors import ProcParseError, SyscallError
from sandlock_sys.proc import read_stat, read_status

__all__ = ["Restored", "Spawn", "restore"]

_FAILURES = (
    SyscallError, InjectionError, TraceeGoneError, TraceeStuckError, ProcParseError, OSError,
    # What a value raises that no kernel takes, and that the checks of an image let through.
    ValueError, OverflowError, struct.error,
)  # fmt: skip

Spawn = Callable[[int, int], int]
"""Starts the program of an executable fd, with a descriptor kept under its own number: (program, channel) -> pid."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored process, or tree, that runs.

    Attributes:
        pid: of its first process, a child of whoever `spawn` made it a child of.
        pids: of all but the zombies, in the order of `Checkpoint.processes`.
        starts: when each of these was started, in clock ticks since boot: with the pid, what it is known by.
        skipped: what it lacks, and was taken on by name.

    """

    pid: int
    pids: tuple[int, ...]
    starts: tuple[int, ...]
    skipped: tuple[Unsupported, ...]

    def kill(self) -> None:
        """End those of its processes that live."""
        for pid, start in zip(self.pids, self.starts, strict=True):
            with contextlib.suppress(SyscallError):  # it has ended
                _kill_exactly(pid, start)

    def wait(self) -> int:
        """Wait for its first process, a child of this one, and return the status (os.waitstatus_to_exitcode)."""
        return os.waitpid(self.pid, 0)[1]


def _kill_exactly(pid: int, start: int) -> None:
    """Kill process `pid` if it is the one that was started then."""
    process = pidfd.open_pidfd(pid)
    try:
        # Safety: of a number that was given away, the fd or this is the new process's, and then both are.
        if read_stat(pid).starttime == start:
            pidfd.send_signal(process, signal.SIGKILL)
    finally:
        os.close(process)


def restore(
    checkpoint: Checkpoint,
    spawn: Spawn | None = None,
    *,
    allow: AbstractSet[str] = frozenset(),
    descriptors: Mapping[int, int] | None = None,
    ids: Ids = Ids.PREFER,
    lazy: bool = False,
    ready: Callable[[Sequence[int]], None] | None = None,
) -> Restored:
    """Make the processes of a checkpoint anew, and let them go.

    The same checkpoint may be restored many times, at once too. Policy is the restorer's: everything is done by the
    child that `spawn` starts, under whatever confines it, before a byte of the checkpoint runs; only its memory and
    registers are written from here. Should anything fail, or the restorer die, the child is killed.

    Arguments:
        checkpoint: from `load`, or straight from `capture`.
        spawn: starts the stub program that is to become the process; a plain child by default.
        allow: names or kinds of what the restored process may lack.
        ids: which process and thread ids they have; only a plain child's can be chosen, `spawn` chooses its own.
        descriptors: what stands in for descriptors of the first process that lead outside: number there -> the
        caller's.
        lazy: map long pieces of memory from the image instead of copying them, so that the process runs before its
            pages are read. It lacks something then, which `allow` must name ("discard"); `restore.lazy` says what.
            A compressed image is copied.
        ready: called with the ids of the processes when all is in its place and nothing of it has run; what it raises
            ends the restore.

    Raises:
        RestoreError: it cannot be restored; `skipped` lists what would be lacking, if that is why.

    """
    architecture = sandlock_arch.native()
    check_host(checkpoint, architecture.name, os.sysconf("SC_PAGE_SIZE"), own_vdso_digest())
    replacements = _replacements(checkpoint, descriptors or {})
    lacking = list_skipped(checkpoint, replacements, ()) + ((DISCARD,) if lazy else ())
    left = tuple(one for one in lacking if one.name not in allow and one.kind not in allow)
    if left:
        words = "; ".join(f"{one.name} ({one.kind}): {one.reason}" for one in left)
        step = "lazy" if left == (DISCARD,) else "descriptors"
        raise RestoreError(step, f"the restored process would lack {words}", left)
    job = _Job(checkpoint, architecture, allow, ids, list(lacking), lazy=lazy)
    try:
        return job.run(spawn, replacements, ready)
    except BaseException as error:
        job.kill()
        if isinstance(error, _FAILURES):
            raise RestoreError(job.step, str(error)) from error
        raise


def _replacements(checkpoint: Checkpoint, descriptors: Mapping[int, int]) -> dict[int, int]:
    rows = {row.number: row.file for row in checkpoint.processes[0].descriptors}
    unknown = sorted(set(descriptors) - set(rows))
    if unknown:
        raise RestoreError("descriptors", f"the captured process has no descriptor {unknown[0]}")
    return {rows[number]: fd for number, fd in descriptors.items()}


def _all_ids(processes: Sequence[ProcessInfo]) -> list[int]:
    """Every process and thread id, that of the first process first."""
    ids = [process.pid for process in processes]
    return ids + [thread.tid for process in processes for thread in process.threads if thread.tid not in ids]


@dataclass
class _Job:
    """One restore."""

    checkpoint: Checkpoint
    architecture: Architecture
    allow: AbstractSet[str]
    ids: Ids
    skipped: list[Unsupported]
    targets: list[Target] = field(default_factory=list)
    child: int = 0
    step: str = "start"
    lazy: bool = False

    def kill(self) -> None:
        """End whatever was made."""
        pids = {target.pid for target in self.targets} | ({self.child} if self.child else set())
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(ChildProcessError, SyscallError):
                os.waitpid(pid, 0x40000000)

    def run(
        self, spawn: Spawn | None, replacements: Mapping[int, int], ready: Callable[[Sequence[int]], None] | None
    ) -> Restored:
        own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        stub = open_stub(self.architecture)
        with own, theirs:
            channel = theirs.fileno()
            try:
                self.step = "spawn"
                self.child = (spawn or spawn_stub)(stub, channel)
                await_stub(self.child, stub)
            finally:
                os.close(stub)
            theirs.close()
            launcher = Target.seize(self.child, self.architecture)
            self._check_identity()
            processes = self.checkpoint.processes
            self.step = "birth"
            birth = give_birth(launcher, _all_ids(processes), self.ids, may_unshare=spawn is None)
            self.child = birth.target.pid
            self.targets.append(birth.target)
            with contextlib.closing(NextIds(birth.target.pid, birth.target.call("getpid"))) as next_ids:
                self._populate(birth, channel, own, replacements, next_ids)
        pids = tuple(target.pid for target in self.targets)
        starts = tuple(read_stat(pid).starttime for pid in pids)  # none of them can end before it is let go
        if ready is not None:
            self.step = "ready"
            ready(pids)
        for target in self.targets:
            for tid in reversed(target.tids):
                ptrace.detach(tid)
        return Restored(self.child, pids, starts, tuple(self.skipped))

    def _check_identity(self) -> None:
        """A checkpoint says whose process it was, and gives nobody that identity: the restorer must have it already."""
        status = read_status(self.child)
        process = self.checkpoint.processes[0]
        if (process.uid[1], process.gid[1]) != (status.uid.effective, status.gid.effective):
            self._note([
                Unsupported(
                    "credentials", "credentials",
                    f"it was of user {process.uid[1]}, group {process.gid[1]}; this one would be of user "
                    f"{status.uid.effective}, group {status.gid.effective}",
                )
            ])  # fmt: skip

    def _populate(
        self,
        birth: Birth,
        channel: int,
        own: socket.socket,
        replacements: Mapping[int, int],
        next_ids: NextIds,
    ) -> None:
        """Make all processes and open files, then everything in them."""
        checkpoint, processes = self.checkpoint, self.checkpoint.processes
        first = birth.target
        self._prepare(first, processes[0])
        self.step = "open files"
        base = max((row.number for one in processes for row in one.descriptors), default=2) + 1
        objects: dict[int, int] = {}
        maker = FileMaker(first, checkpoint, objects, Channel(own, channel), max(base, 3))
        maker.channel.number = maker.lift(channel)
        for number, memory in enumerate(checkpoint.shared):
            objects[number] = maker.lift(make_shared(first, number, memory, checkpoint.source))
        maker.make(replacements)
        self.step = "processes"
        for process in processes[1:]:
            parent = self.targets[process.parent]
            child = fork_child(parent, process.pid, process.exit_signal, self.ids, next_ids)
            self.targets.append(child)
            self._prepare(child, process)
        join_groups(self.targets, processes)
        living = [
            (number, target, processes[number])
            for number, target in enumerate(self.targets)
            if processes[number].wait_status < 0
        ]
        with contextlib.closing(Filler(checkpoint.source)) as filler:
            for number, target, process in living:
                mapper = LazyMapper(target, checkpoint.source, maker.channel) if self.lazy else None
                self._fill(target, number, process, objects, filler, mapper)
        self.step = "shared memory"
        for number, memory in enumerate(checkpoint.shared):
            seal_shared(first, objects[number], memory)
        self.step = "descriptors"
        pids = [target.own_pid for target in self.targets]
        for number, target, process in living:
            made = maker.made | open_pidfds(target, process, checkpoint.files, pids, maker.base)
            give_numbers(target, process, made, number, checkpoint.files)
        for number, target in enumerate(self.targets):
            if processes[number].wait_status >= 0:
                become_zombie(target, processes[number].wait_status)
        for _, target, process in living:
            self._settle(target, process, next_ids, powers=birth.powers)
        for _, target, process in living:
            self._animate(target, process)
        self.targets[:] = [target for _, target, _ in living]

    def _prepare(self, target: Target, process: ProcessInfo) -> None:
        """Make a fresh process ready: its program, its empty memory, its session."""
        self.step = "program"
        target.own_pid = target.call("getpid")
        if target.own_pid != process.pid and self.ids is Ids.PREFER:
            self._note_id(process.pid, target.own_pid, "process")
        if process.wait_status >= 0:
            return
        execute_program(target, process)
        self.step = "address space"
        clear_space(target, process)
        if process.session == process.pid:
            target.errno("setsid")  # EPERM: it leads a group already, which is what a spawn may have wanted

    def _fill(
        self,
        target: Target,
        number: int,
        process: ProcessInfo,
        objects: dict[int, int],
        filler: Filler,
        mapper: LazyMapper | None,
    ) -> None:
        self.step = "mappings"
        builder = MappingBuilder(target, objects)
        builder.build(process)
        for index, mapping in enumerate(process.mappings):
            if mapping.runs and mapping.end < 1 << 63:
                area = Area(number, index)
                runs = mapper.map(area, mapping) if mapper else mapping.runs
                filler.fill(target, area, mapping, runs)
        if mapper:
            mapper.finish()
        for words in builder.finish(process):
            self._note([Unsupported("mlock", "mlock", words)])

    def _settle(self, target: Target, process: ProcessInfo, next_ids: NextIds, *, powers: bool) -> None:
        """Settings and threads."""
        self.step = "settings"
        self._note(restore_settings(target, process))
        restore_actions(target, process, restorer=self.architecture.abi.signal_restorer)
        self.step = "layout"
        refused = set_layout(target, process.layout)
        if refused:
            self._note([Unsupported("layout", "layout", refused)])
        self.step = "threads"
        make_threads(target, process, next_ids if self.ids is not Ids.NEW else None)
        for injector, thread in zip(target.injectors, process.threads, strict=True):
            now = injector.call("gettid")
            target.numbers[thread.tid] = now
            if now != thread.tid and self.ids is Ids.KEEP:
                raise RestoreError(f"thread {thread.tid}", f"the kernel gave it the id {now}")
            if now not in {thread.tid, target.own_pid} and self.ids is Ids.PREFER:
                self._note_id(thread.tid, now, "thread")
            self._note(prepare_thread(target, injector, thread))
            patch_tid(target.pid, thread, now)
        rename_holders(target.pid, process, target.numbers)
        if powers:
            drop_powers(target)

    def _animate(self, target: Target, process: ProcessInfo) -> None:
        """Signals and timers; then registers, and nothing but those."""
        self.step = "timers"
        queue_signals(target, process, target.own_pid)
        arm_timers(target, process, target.numbers)
        set_dumpable(target, process)
        self.step = "registers"
        results: list[int | None] = []
        for injector, thread in zip(target.injectors, process.threads, strict=True):
            waits = thread.restart == "time_left"
            results.append(resume_wait(target, injector, thread, self.checkpoint.monotonic_ns) if waits else None)
        for injector, thread in zip(target.injectors[1:], process.threads[1:], strict=True):
            register_rseq(target, injector, thread)
        leave_scratch(target)
        register_rseq(target, target.main, process.threads[0])
        for injector, thread, result in zip(target.injectors, process.threads, results, strict=True):
            finish_thread(target, injector, thread, result)

    def _note_id(self, old: int, new: int, kind: str) -> None:
        """Tell, and do not refuse: most programs do not mind, and whoever does asks for Ids.KEEP."""
        self.skipped.append(Unsupported(f"id:{old}", "id", f"its {kind} id is {new} now"))

    def _note(self, refused: list[Unsupported]) -> None:
        """Take on what the host refused, or give up for it."""
        left = tuple(one for one in refused if one.name not in self.allow and one.kind not in self.allow)
        if left:
            raise RestoreError(self.step, "; ".join(one.reason for one in left), left)
        self.skipped += refused
