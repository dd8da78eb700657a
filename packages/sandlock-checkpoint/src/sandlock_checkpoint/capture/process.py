"""Write down one stopped process with all its threads."""

from __future__ import annotations

import os
from dataclasses import dataclass

from sandlock_arch import Architecture
from sandlock_checkpoint.capture.settings import (
    read_actions,
    read_layout,
    read_limits,
    read_settings,
    read_timers,
)
from sandlock_checkpoint.capture.stop import StoppedProcess
from sandlock_checkpoint.capture.threads import Snapshot, describe_thread, mend_interrupted, take_snapshot
from sandlock_checkpoint.inject import Injector, Scratch
from sandlock_checkpoint.memory import Mapping
from sandlock_checkpoint.model import Layout, ProcessInfo
from sandlock_checkpoint.open_files import Descriptor
from sandlock_checkpoint.terms import Unsupported
from sandlock_sys import kcmp, ptrace
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import Stat, Status, read_stat, read_status

__all__ = ["Subject", "describe_process", "describe_zombie", "examine_process"]

_SECCOMP_FILTER = 2


@dataclass
class Subject:
    """A stopped process on its way into a checkpoint: what could be read without running anything in it."""

    stopped: StoppedProcess
    number: int
    parent: int
    prefix: str
    stat: Stat
    status: Status
    snapshots: list[Snapshot]
    mappings: tuple[Mapping, ...] = ()

    @property
    def pid(self) -> int:
        """Process id, as the caller sees it."""
        return self.stopped.pid


def examine_process(
    stopped: StoppedProcess, number: int, parent: int, architecture: Architecture
) -> tuple[Subject, list[Unsupported]]:
    """Return what ptrace and /proc tell of a stopped process and its threads, and what of it cannot be captured."""
    pid = stopped.pid
    prefix = f"{pid}/" if number else ""
    status = read_status(pid)
    refused = []
    if status.seccomp == _SECCOMP_FILTER:
        refused.append(
            Unsupported(f"{prefix}seccomp", "seccomp", "its seccomp filter: the restorer's policy will apply instead")
        )
    for tid in stopped.tids[1:]:
        refused += _unshared(pid, tid, prefix)
    starts = {tid: (tid != pid, read_stat(pid, tid).starttime, tid) for tid in stopped.tids}
    snapshots = []
    for tid in sorted(stopped.tids, key=lambda tid: starts[tid]):
        interrupted = mend_interrupted(pid, tid, architecture)
        stopped.calls[tid] = interrupted.syscall if interrupted.restart else -1
        snapshots.append(take_snapshot(pid, tid, interrupted, architecture))
    return Subject(stopped, number, parent, prefix, read_stat(pid), status, snapshots), refused


def _unshared(pid: int, tid: int, prefix: str) -> list[Unsupported]:
    """Return what a thread does not share with its process, though threads do as a rule."""
    found = []
    for resource, words in ((kcmp.Resource.FILES, "descriptors"), (kcmp.Resource.FS, "working directory")):
        try:
            same = kcmp.compare(pid, tid, resource) == 0
        except SyscallError:  # no CONFIG_KCMP: then threads are taken for what they are nearly always
            continue
        if not same:
            found.append(
                Unsupported(f"{prefix}thread:{tid}", "unshared_thread", f"thread {tid} has a {words} of its own")
            )
    return found


def describe_process(
    subject: Subject,
    injector: Injector,
    scratch: Scratch,
    architecture: Architecture,
    descriptors: tuple[Descriptor, ...],
    now_ns: int,
) -> ProcessInfo:
    """Return everything about a process.

    Arguments:
        subject: what was read before.
        injector: of its main thread, entered.
        scratch: memory of the process.
        architecture: its own.
        descriptors: of the process.
        now_ns: CLOCK_MONOTONIC of the capture.

    """
    pid, stat, status = subject.pid, subject.stat, subject.status
    settings = read_settings(injector, scratch)
    actions = read_actions(injector, scratch, status, restorer=architecture.abi.signal_restorer)
    intervals, timers = read_timers(pid, injector, scratch)
    threads = [describe_thread(subject.snapshots[0], injector, scratch, now_ns)]
    for snapshot in subject.snapshots[1:]:
        with subject.stopped.injector(architecture, snapshot.tid) as own:
            threads.append(describe_thread(snapshot, own, scratch, now_ns))
    return ProcessInfo(
        pid=_inner(status, "NStgid", pid),
        parent=subject.parent,
        process_group=_inner(status, "NSpgid", stat.pgrp),
        session=_inner(status, "NSsid", stat.session),
        exe=_link(pid, "exe"),
        cwd=_link(pid, "cwd"),
        root=_link(pid, "root"),
        umask=status.umask if status.umask is not None else 0o022,
        personality=settings.personality,
        dumpable=settings.dumpable,
        no_new_privs=bool(status.no_new_privs),
        child_subreaper=settings.child_subreaper,
        thp_disable=settings.thp_disable,
        uid=(*status.uid,),
        gid=(*status.gid,),
        groups=status.groups,
        exit_signal=stat.exit_signal,
        layout=read_layout(pid, stat, settings.brk),
        mappings=subject.mappings,
        threads=tuple(threads),
        descriptors=descriptors,
        actions=actions,
        pending=ptrace.peek_signals(pid, shared=True),  # behind the timers: what expires during the stop is not lost
        interval_timers=intervals,
        posix_timers=timers,
        next_timer_id=-1,
        limits=read_limits(pid),
    )


def describe_zombie(pid: int, parent: int) -> ProcessInfo:
    """Return what is left of a process that has ended; its paths are all "/", since it has none any more."""
    stat, status = read_stat(pid), read_status(pid)
    return ProcessInfo(
        pid=_inner(status, "NStgid", pid), parent=parent, process_group=_inner(status, "NSpgid", stat.pgrp),
        session=_inner(status, "NSsid", stat.session), exe=b"/", cwd=b"/", root=b"/", umask=0, personality=0,
        dumpable=0, no_new_privs=False, child_subreaper=False, thp_disable=False, uid=(*status.uid,),
        gid=(*status.gid,), groups=status.groups, exit_signal=stat.exit_signal,
        layout=Layout(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b""), mappings=(), threads=(), descriptors=(), actions=(),
        pending=(), interval_timers=(), posix_timers=(), next_timer_id=-1, limits=(), wait_status=stat.exit_code,
    )  # fmt: skip


def _inner(status: Status, line: str, outer: int) -> int:
    """Return an id as the process's own pid namespace has it."""
    numbers = status.lines.get(line, b"").split()
    return int(numbers[-1]) if numbers else outer


def _link(pid: int, name: str) -> bytes:
    path = f"/proc/{pid}/{name}"
    try:
        return os.readlink(os.fsencode(path))
    except OSError as error:
        raise SyscallError("readlink", error.errno or 5, path) from error
