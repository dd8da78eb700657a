"""Capture a process or a tree: stop it, write everything down, and hold it until its memory has been read."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

import sandlock_arch
from sandlock_arch import Architecture
from sandlock_checkpoint.capture.common import find_common
from sandlock_checkpoint.capture.joints import Joints
from sandlock_checkpoint.capture.mappings import describe_mappings
from sandlock_checkpoint.capture.open_files import OpenFiles
from sandlock_checkpoint.capture.outsiders import find_outsiders
from sandlock_checkpoint.capture.process import Subject, describe_process, describe_zombie, examine_process
from sandlock_checkpoint.capture.shared import SharedObjects
from sandlock_checkpoint.capture.sockets import reopenable
from sandlock_checkpoint.capture.source import LiveSource
from sandlock_checkpoint.capture.stop import stop_process
from sandlock_checkpoint.capture.tracking import Moment, Tracker
from sandlock_checkpoint.capture.tracking_filtered import Admit, way_past
from sandlock_checkpoint.capture.tree import Member, children_of, stop_tree
from sandlock_checkpoint.errors import CaptureError, InjectionError
from sandlock_checkpoint.inject import Injector, Scratch
from sandlock_checkpoint.memory import SharedMemory
from sandlock_checkpoint.model import Checkpoint, ProcessInfo
from sandlock_checkpoint.open_files import Descriptor, ExternalFile, OpenFile
from sandlock_checkpoint.own_vdso import own_vdso_digest
from sandlock_checkpoint.terms import Leave, Scope, Unsupported
from sandlock_checkpoint.tracing import TraceeGoneError, TraceeStuckError
from sandlock_sys.errors import ProcParseError, SyscallError

__all__ = ["capture"]

_SCRATCH = 1 << 16
_STOP_TIMEOUT_S = 10.0


def capture(
    pid: int,
    *,
    scope: Scope = Scope.PROCESS,
    leave: Leave = Leave.RUNNING,
    allow: AbstractSet[str] = frozenset(),
    name: str = "",
    timeout_s: float = _STOP_TIMEOUT_S,
    interrupted: set[int] | None = None,
    tracker: Tracker | None = None,
    admit: Admit | None = None,
) -> Checkpoint:
    """Stop a process, or a tree, and return what it is; it stays stopped until the checkpoint is closed.

    The checkpoint belongs to the calling thread, which is its tracer: `save` and `close` it there. Should this process
    die, the kernel lets the captured ones run on.

    Arguments:
        pid: a process that the caller may trace (ptrace(2)).
        scope: it alone with all its threads, or everything below it too.
        leave: what becomes of it when the checkpoint is closed; after a save that fails, it runs on.
        allow: names or kinds (`Unsupported.name`, `.kind`) of what may be left out.
        name: put into the checkpoint.
        timeout_s: seconds that one thread may take to stop.
        interrupted: has, at any time, the threads that are interrupted and have not stopped yet. One in a notified
            system call stops only when it is answered, and whoever answers knows from this that it may send it back.
        tracker: watches the processes from now on, so that a save with the image of an earlier capture by it as parent
            reads and writes only what has changed.
        admit: of who supervises the processes: given a stopped thread, returns what has the filter let one
            userfaultfd(2) of it through, or None; raises `FilteredError` where it must not have one. Without it only
            root makes one where a filter judges.

    Raises:
        CaptureError: it cannot be captured; `unsupported` lists all that stands against it. It runs on.

    """
    architecture = sandlock_arch.native()
    job = _Job(pid, architecture, allow, tracker, admit)
    try:
        job.stop(scope, timeout_s, interrupted)
        return job.describe(scope, leave, name)
    except BaseException as error:
        job.release()
        if isinstance(
            error, SyscallError | InjectionError | TraceeGoneError | TraceeStuckError | ProcParseError | ValueError
        ):
            raise CaptureError(pid, str(error)) from error
        raise


@dataclass
class _Job:
    """One capture."""

    pid: int
    architecture: Architecture
    allow: AbstractSet[str]
    tracker: Tracker | None = None
    admit: Admit | None = None
    members: list[Member] = field(default_factory=list)
    shared: SharedObjects = field(default_factory=SharedObjects)
    unsupported: list[Unsupported] = field(default_factory=list)

    def stop(self, scope: Scope, timeout_s: float, interrupted: set[int] | None) -> None:
        if scope is Scope.TREE:
            stop_tree(self.pid, self.architecture, timeout_s, self.members, interrupted)
            return
        stopped = stop_process(self.pid, self.architecture, timeout_s, interrupted)
        self.members.append(Member(self.pid, -1, stopped))
        for child in children_of(self.pid):
            self.unsupported.append(
                Unsupported(f"child:{child}", "child", f"process {child} is a child of it: capture the tree")
            )

    def release(self) -> None:
        """Let everything run on; where one must not, nobody does, for others may have memory and descriptors of it."""
        held = [member.stopped for member in reversed(self.members) if member.stopped is not None]
        leave = Leave.KILLED if any(stopped.doomed for stopped in held) else Leave.RUNNING
        with contextlib.ExitStack() as every:  # whatever one of them raises
            every.callback(self.shared.close)
            for stopped in reversed(held):
                every.callback(stopped.release, leave)

    def describe(self, scope: Scope, leave: Leave, name: str) -> Checkpoint:
        subjects = self._examine()
        pids = [member.pid for member in self.members]
        if self.tracker is not None:
            self.tracker.look([subject.pid for subject in subjects])
        opened, joints = OpenFiles(), Joints()
        for subject in subjects:
            opened.add(subject.pid, subject.number, subject.prefix)
        joints.collect(opened.found)
        files, descriptors = opened.describe(pids, self.shared, joints)
        self.unsupported += opened.unsupported
        for subject in subjects:
            subject.mappings, refused = describe_mappings(subject.pid, subject.prefix, self.shared, self.tracker)
            self.unsupported += refused
        self.unsupported += find_common([subject.pid for subject in subjects])
        self.unsupported += find_outsiders(self.shared, {os.getpid(), *pids})
        self._refuse()
        files = _reopened(files, opened, descriptors)
        now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        processes, shared = self._ask(subjects, descriptors, now_ns)
        tracking = self._arm(pids, processes)
        system = os.uname()
        stopped = [member.stopped for member in self.members if member.stopped is not None]
        source = LiveSource(stopped, pids, processes, self.shared, leave)
        return Checkpoint(
            name=name,
            architecture=self.architecture.name,
            kernel=f"{system.release} {system.version}",
            page_size=os.sysconf("SC_PAGE_SIZE"),
            captured_ns=time.time_ns(),
            monotonic_ns=now_ns,
            scope=scope,
            leave=leave,
            processes=processes,
            files=files,
            shared=shared,
            pipes=tuple(joints.pipes),
            sockets=tuple(joints.sockets),
            vdso_digest=own_vdso_digest(),
            unsupported=tuple(self.unsupported),
            source=source,
            spare=source.spare,
            tracking=tracking,
        )

    def _arm(self, pids: list[int], processes: tuple[ProcessInfo, ...]) -> Moment | None:
        """Have writes noted from now on: nothing that is injected writes any more."""
        if self.tracker is None:
            return None
        before = self.tracker.armed()
        for pid, process in zip(pids, processes, strict=True):
            self.tracker.arm(pid, process.mappings)
        return Moment(self.tracker, self.tracker.number, tuple(pids), tuple(one.mappings for one in processes), before)

    def _examine(self) -> list[Subject]:
        subjects = []
        for number, member in enumerate(self.members):
            if member.stopped is not None:
                subject, refused = examine_process(member.stopped, number, member.parent, self.architecture)
                subjects.append(subject)
                self.unsupported += refused
        return subjects

    def _refuse(self) -> None:
        """Raise for whatever was not taken on, before anything is injected or written."""
        left = tuple(one for one in self.unsupported if one.name not in self.allow and one.kind not in self.allow)
        if left:
            words = "; ".join(f"{one.name} ({one.kind}): {one.reason}" for one in left)
            raise CaptureError(self.pid, f"it has what cannot be captured: {words}", left)

    def _ask(
        self, subjects: list[Subject], descriptors: dict[int, tuple[Descriptor, ...]], now_ns: int
    ) -> tuple[tuple[ProcessInfo, ...], tuple[SharedMemory, ...]]:
        """Ask all processes what only they know, all at once: shared memory may need any of them."""
        found: dict[int, ProcessInfo] = {}
        with contextlib.ExitStack() as stack:
            injectors: dict[int, tuple[Injector, Scratch]] = {}
            for subject in subjects:
                injector = stack.enter_context(subject.stopped.injector(self.architecture))
                scratch = stack.enter_context(Scratch(injector, subject.pid, _SCRATCH))
                injectors[subject.pid] = (injector, scratch)
                if self.tracker is not None:
                    way = way_past(subject.stopped, subject.status, self.admit, injector, self.architecture)
                    self.tracker.attach(subject.pid, injector, way)
                found[subject.number] = describe_process(
                    subject, injector, scratch, self.architecture, descriptors[subject.number], now_ns
                )
            shared = self.shared.describe(injectors)
        for number, member in enumerate(self.members):
            if member.stopped is None:
                found[number] = describe_zombie(member.pid, member.parent)
        return tuple(found[number] for number in range(len(self.members))), shared


def _reopened(
    files: tuple[OpenFile, ...], opened: OpenFiles, descriptors: dict[int, tuple[Descriptor, ...]]
) -> tuple[OpenFile, ...]:
    """Return the files with those sockets that are to be made anew described so."""
    result = list(files)
    for one in opened.found:
        number = next(row.file for row in descriptors[one.process] if row.number == one.fd)
        target = files[number].target
        if isinstance(target, ExternalFile) and target.kind in {"listening_socket", "unconnected_socket"}:
            result[number] = replace(files[number], target=reopenable(one))
    return tuple(result)
