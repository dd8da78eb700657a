"""Restore a checkpoint: from a fresh, confined, stopped child to the process that was captured."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import sandlock_arch
from sandlock_arch import Architecture
from sandlock_checkpoint.errors import InjectionError, RestoreError
from sandlock_checkpoint.memory import Area
from sandlock_checkpoint.model import Checkpoint, ProcessInfo, Unsupported
from sandlock_checkpoint.own_vdso import own_vdso_digest
from sandlock_checkpoint.restore.mappings import BUFFER_SIZE, MappingBuilder, fill_mapping
from sandlock_checkpoint.restore.open_files import FileMaker, give_numbers
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
from sandlock_checkpoint.restore.space import SCRATCH_SIZE, clear_space, leave_scratch, set_layout
from sandlock_checkpoint.restore.stub import open_stub, spawn_stub
from sandlock_checkpoint.restore.target import Target
from sandlock_checkpoint.restore.threads import (
    finish_thread,
    make_threads,
    patch_tid,
    prepare_thread,
    register_rseq,
    resume_wait,
)
from sandlock_checkpoint.tracing import TraceeGoneError, TraceeStuckError
from sandlock_sys import ptrace
from sandlock_sys.errors import ProcParseError, SyscallError
from sandlock_sys.proc import read_status

__all__ = ["Restored", "Spawn", "restore"]

Spawn = Callable[[int, int], int]
"""Starts the program of an executable fd, with a descriptor kept under its own number: (program, channel) -> pid."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored process, or tree, that runs.

    Attributes:
        pid: of its first process, a child of whoever `spawn` made it a child of.
        pids: of all, in the order of `Checkpoint.processes`; 0 for a zombie.
        skipped: what it lacks, and was taken on by name.

    """

    pid: int
    pids: tuple[int, ...]
    skipped: tuple[Unsupported, ...]

    def kill(self) -> None:
        """End all of its processes."""
        for pid in self.pids:
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its first process, a child of this one, and return the status (os.waitstatus_to_exitcode)."""
        return os.waitpid(self.pid, 0)[1]


def restore(
    checkpoint: Checkpoint,
    spawn: Spawn | None = None,
    *,
    allow: AbstractSet[str] = frozenset(),
    descriptors: Mapping[int, int] | None = None,
) -> Restored:
    """Make the processes of a checkpoint anew, and let them go.

    The same checkpoint may be restored many times, at once too. Policy is the restorer's: everything is done by the child
    that `spawn` starts, under whatever confines it, before a byte of the checkpoint runs; only its memory and registers
    are written from here. Should anything fail, or the restorer die, the child is killed.

    Arguments:
        checkpoint: from `load`, or straight from `capture`.
        spawn: starts the stub program that is to become the process; a plain child by default.
        allow: names or kinds of what the restored process may lack.
        descriptors: what stands in for descriptors of the first process that lead outside: number there -> the caller's.

    Raises:
        RestoreError: it cannot be restored; `skipped` lists what would be lacking, if that is why.

    """
    architecture = sandlock_arch.native()
    check_host(checkpoint, architecture.name, os.sysconf("SC_PAGE_SIZE"), own_vdso_digest())
    replacements = _replacements(checkpoint, descriptors or {})
    lacking = list_skipped(checkpoint, replacements, ())
    left = tuple(one for one in lacking if one.name not in allow and one.kind not in allow)
    if left:
        words = "; ".join(f"{one.name} ({one.kind}): {one.reason}" for one in left)
        raise RestoreError("descriptors", f"the restored process would lack {words}", left)
    job = _Job(checkpoint, architecture, allow, list(lacking))
    try:
        return job.run(spawn or spawn_stub, replacements)
    except BaseException as error:
        job.kill()
        if isinstance(
            error,
            SyscallError | InjectionError | TraceeGoneError | TraceeStuckError | ProcParseError | OSError,
        ):
            raise RestoreError(job.step, str(error)) from error
        raise


def _replacements(checkpoint: Checkpoint, descriptors: Mapping[int, int]) -> dict[int, int]:
    rows = {row.number: row.file for row in checkpoint.processes[0].descriptors}
    unknown = sorted(set(descriptors) - set(rows))
    if unknown:
        raise RestoreError("descriptors", f"the captured process has no descriptor {unknown[0]}")
    return {rows[number]: fd for number, fd in descriptors.items()}


@dataclass
class _Job:
    """One restore."""

    checkpoint: Checkpoint
    architecture: Architecture
    allow: AbstractSet[str]
    skipped: list[Unsupported]
    targets: list[Target] = field(default_factory=list)
    child: int = 0
    step: str = "start"

    def kill(self) -> None:
        """End whatever was made."""
        pids = {target.pid for target in self.targets} | ({self.child} if self.child else set())
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(ChildProcessError, SyscallError):
                os.waitpid(pid, 0x40000000)

    def run(self, spawn: Spawn, replacements: Mapping[int, int]) -> Restored:
        own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        stub = open_stub(self.architecture)
        with own, theirs:
            try:
                self.step = "spawn"
                self.child = spawn(stub, theirs.fileno())
            finally:
                os.close(stub)
            channel = theirs.fileno()
            theirs.close()
            target = Target.seize(self.child, self.architecture)
            self.targets.append(target)
            self._build(target, channel, own, replacements)
        for target in self.targets:
            for tid in reversed(target.tids):
                ptrace.detach(tid)
        return Restored(self.child, tuple(target.pid for target in self.targets), tuple(self.skipped))

    def _build(self, target: Target, channel: int, own: socket.socket, replacements: Mapping[int, int]) -> None:
        checkpoint = self.checkpoint
        process = checkpoint.processes[0]
        buffer = bytearray(BUFFER_SIZE)
        self.step = "program"
        execute_program(target, process)
        self.step = "address space"
        clear_space(target, process)
        self.step = "open files"
        base = max((row.number for one in checkpoint.processes for row in one.descriptors), default=2) + 1
        base = max(base, 3)
        objects: dict[int, int] = {}
        maker = FileMaker(target, checkpoint, objects, channel, own, base)
        maker.channel = maker.lift(channel)
        for number, memory in enumerate(checkpoint.shared):
            objects[number] = maker.lift(make_shared(target, number, memory, checkpoint.source, buffer))
        maker.make(replacements)
        self._fill(target, 0, process, objects, buffer)
        self.step = "shared memory"
        for number, memory in enumerate(checkpoint.shared):
            seal_shared(target, objects[number], memory)
        self.step = "descriptors"
        give_numbers(target, process, maker.made, 0, checkpoint.files)
        self._animate(target, process)

    def _fill(
        self, target: Target, number: int, process: ProcessInfo, objects: dict[int, int], buffer: bytearray
    ) -> None:
        self.step = "mappings"
        builder = MappingBuilder(target, objects)
        builder.build(process)
        for index, mapping in enumerate(process.mappings):
            if mapping.runs and mapping.end < 1 << 63:
                fill_mapping(target, self.checkpoint.source, Area(number, index), mapping, buffer)
        builder.advise(process)

    def _animate(self, target: Target, process: ProcessInfo) -> None:
        """Settings, threads and signals; then registers, and nothing but those."""
        self.step = "settings"
        self._note(restore_settings(target, process))
        restore_actions(target, process, restorer=self.architecture.abi.signal_restorer)
        self.step = "layout"
        refused = set_layout(target, process.layout)
        if refused:
            self._note([Unsupported("layout", "layout", refused)])
        self.step = "threads"
        make_threads(target, process)
        tids = {}
        for injector, thread in zip(target.injectors, process.threads, strict=True):
            tids[thread.tid] = injector.call("gettid")
            self._note(prepare_thread(target, injector, thread))
            patch_tid(target.pid, thread, tids[thread.tid])
        queue_signals(target, process, target.call("getpid"))
        self.step = "timers"
        arm_timers(target, process, tids)
        set_dumpable(target, process)
        self.step = "registers"
        results: list[int | None] = []
        for injector, thread in zip(target.injectors, process.threads, strict=True):
            results.append(
                resume_wait(target, injector, thread, self.checkpoint.monotonic_ns)
                if thread.restart == "time_left"
                else None
            )
        for injector, thread in zip(target.injectors[1:], process.threads[1:], strict=True):
            register_rseq(target, injector, thread)
        leave_scratch(target)
        register_rseq(target, target.main, process.threads[0])
        for injector, thread, result in zip(target.injectors, process.threads, results, strict=True):
            finish_thread(target, injector, thread, result)

    def _note(self, refused: list[Unsupported]) -> None:
        """Take on what the host refused, or give up for it."""
        left = tuple(one for one in refused if one.name not in self.allow and one.kind not in self.allow)
        if left:
            raise RestoreError(self.step, "; ".join(one.reason for one in left), left)
        self.skipped += refused
