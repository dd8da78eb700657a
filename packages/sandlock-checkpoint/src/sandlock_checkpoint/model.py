"""A checkpoint: everything about a process, or a tree of processes, but the contents of its memory.

All values are plain, frozen and compare equal when they are; numbers are the kernel's own, times are nanoseconds, paths
are bytes. Tuples stand in the order that a restore needs: parents before children, the main thread first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sandlock_checkpoint.memory import Mapping, MemorySource, SharedMemory, Tracking
from sandlock_checkpoint.open_files import Descriptor, OpenFile, Pipe, SocketPair
from sandlock_checkpoint.terms import Leave, Scope, Unsupported

if TYPE_CHECKING:
    from sandlock_checkpoint.store import Store

__all__ = [
    "Checkpoint",
    "IntervalTimer",
    "Layout",
    "Limit",
    "PosixTimer",
    "ProcessInfo",
    "Registers",
    "RobustList",
    "Rseq",
    "Scheduling",
    "SignalAction",
    "SignalStack",
    "ThreadState",
]


@dataclass(frozen=True, slots=True)
class Registers:
    """One register set, as PTRACE_GETREGSET gave it: `note` is its NT_* type, `name` ours ("general", "xstate")."""

    name: str
    note: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SignalStack:
    """sigaltstack(2): `flags` are SS_* (SS_DISABLE = 2 when there is none)."""

    address: int
    flags: int
    size: int


@dataclass(frozen=True, slots=True)
class RobustList:
    """get_robust_list(2): the list's head, 0 for none, and the size that was registered."""

    head: int
    size: int


@dataclass(frozen=True, slots=True)
class Rseq:
    """rseq(2): the registered area, address 0 for none."""

    address: int
    size: int
    signature: int
    flags: int


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How a thread is scheduled: SCHED_* `policy`, its `priority` (0 but for FIFO and RR), `nice`, and its CPUs."""

    policy: int
    priority: int
    nice: int
    affinity: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ThreadState:
    """One thread.

    Attributes:
        tid: its thread id, in its own pid namespace.
        name: up to 15 bytes (PR_SET_NAME).
        registers: the general set first, then those of the architecture's table that this thread has, in its order,
            as a tracer sees them at a stop before signal delivery: out of an interrupted system call they hold the
            restart code (x86_64), or are rewound already (aarch64, riscv64).
        restart: what is to become of an interrupted system call: "" there was none, or it has its result; "again" the
            kernel makes it again, or ends it with EINTR for a signal handler, by the registers alone; "time_left" it
            sleeps on for what is left of its time (`deadline_ns`); "lost" it ends with EINTR, because the kernel held
            what it was.
        syscall: number of the interrupted system call, -1 for none.
        deadline_ns: CLOCK_MONOTONIC of the capture at which an interrupted time-out ends; 0 for none or unknown (then
            the whole time-out begins again).
        signal_mask: blocked signals, bit N-1 for signal N. When a call that had replaced it (sigsuspend, ppoll,
            pselect, epoll_pwait) was interrupted, the mask of before the call.
        pending: siginfo_t (128 bytes each) of the signals that wait for this thread, in order.
        signal_stack: alternate signal stack.
        robust_list: of futexes.
        rseq: restartable sequence area.
        tid_address: what set_tid_address(2) said: is cleared and woken when the thread ends; 0 for none.
        scheduling: policy, nice value, CPUs.
        parent_death_signal: PR_SET_PDEATHSIG, 0 for none.
        timer_slack_ns: PR_SET_TIMERSLACK; 0 when unknown.

    """

    tid: int
    name: bytes
    registers: tuple[Registers, ...]
    restart: str
    syscall: int
    deadline_ns: int
    signal_mask: int
    pending: tuple[bytes, ...]
    signal_stack: SignalStack
    robust_list: RobustList
    rseq: Rseq
    tid_address: int
    scheduling: Scheduling
    parent_death_signal: int = 0
    timer_slack_ns: int = 0


@dataclass(frozen=True, slots=True)
class SignalAction:
    """What the kernel holds for `signal` (struct kernel_sigaction): only those that are not the default are kept.

    Attributes:
        signal: number.
        handler: address, 0 SIG_DFL, 1 SIG_IGN.
        flags: SA_*.
        restorer: address, where the architecture has one, else 0.
        mask: blocked during the handler, bit N-1 for signal N.

    """

    signal: int
    handler: int
    flags: int
    restorer: int
    mask: int


@dataclass(frozen=True, slots=True)
class IntervalTimer:
    """setitimer(2) timer `which` (ITIMER_*), armed: `value_us` to go, then every `interval_us`."""

    which: int
    value_us: int
    interval_us: int


@dataclass(frozen=True, slots=True)
class PosixTimer:
    """timer_create(2).

    Attributes:
        id: the kernel's number, that the program holds.
        clock: CLOCK_*.
        notify: SIGEV_* (0 signal, 1 none, 2 thread), with SIGEV_THREAD_ID = 4 added.
        signal: number.
        value: sigev_value, that the handler gets.
        tid: SIGEV_THREAD_ID: the thread.
        value_ns: until it expires, 0 when disarmed.
        interval_ns: between expirations.

    """

    id: int
    clock: int
    notify: int
    signal: int
    value: int
    tid: int
    value_ns: int
    interval_ns: int


@dataclass(frozen=True, slots=True)
class Limit:
    """setrlimit(2): `resource` is RLIMIT_*; 2**64-1 is RLIM_INFINITY."""

    resource: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the kernel believes the parts of the program are (struct prctl_mm_map); `auxv` as bytes."""

    start_code: int
    end_code: int
    start_data: int
    end_data: int
    start_brk: int
    brk: int
    start_stack: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int
    auxv: bytes


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process.

    Attributes:
        pid: process id, in its own pid namespace.
        parent: position of its parent in `Checkpoint.processes`, -1 for the first.
        process_group: its process group's id; session: its session's id.
        session: id of the session.
        exe: the program file.
        cwd: working directory, absolute.
        root: root directory, absolute; b"/" unless it has changed it.
        umask: file mode mask.
        personality: personality(2).
        dumpable: PR_GET_DUMPABLE.
        no_new_privs: PR_GET_NO_NEW_PRIVS.
        child_subreaper: PR_GET_CHILD_SUBREAPER.
        thp_disable: PR_GET_THP_DISABLE.
        uid: real, effective, saved, file system user id.
        gid: likewise.
        groups: supplementary groups.
        exit_signal: what its parent gets when it ends, SIGCHLD as a rule.
        layout: program break and mm fields.
        mappings: in order of address.
        threads: the main thread first, then in order of their creation (by start time, then tid).
        descriptors: in order of their numbers.
        actions: signal actions that are not the default.
        pending: siginfo_t of the signals that wait for any thread of the process.
        interval_timers: that are armed.
        posix_timers: in order of their ids.
        next_timer_id: the id that the kernel would give the next POSIX timer, or -1 when unknown.
        limits: all resource limits.
        wait_status: of a process that has ended and that its parent has not waited for, as wait4(2) will tell it; such
            a zombie has no mappings, threads or descriptors. -1 for all others.

    """

    pid: int
    parent: int
    process_group: int
    session: int
    exe: bytes
    cwd: bytes
    root: bytes
    umask: int
    personality: int
    dumpable: int
    no_new_privs: bool
    child_subreaper: bool
    thp_disable: bool
    uid: tuple[int, int, int, int]
    gid: tuple[int, int, int, int]
    groups: tuple[int, ...]
    exit_signal: int
    layout: Layout
    mappings: tuple[Mapping, ...]
    threads: tuple[ThreadState, ...]
    descriptors: tuple[Descriptor, ...]
    actions: tuple[SignalAction, ...]
    pending: tuple[bytes, ...]
    interval_timers: tuple[IntervalTimer, ...]
    posix_timers: tuple[PosixTimer, ...]
    next_timer_id: int
    limits: tuple[Limit, ...]
    wait_status: int = -1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A process or a tree as it was at one moment.

    A checkpoint that `capture` returned holds its processes stopped until `close`, which `save` calls as soon as it has
    read their memory; it must be used and closed by the thread that captured. One that `load` returned holds the
    image's files open. It is a context manager: leaving closes it.

    Attributes:
        name: the caller's, or "".
        architecture: as sandlock_arch spells it ("x86_64").
        kernel: release and version of uname(2).
        page_size: bytes.
        captured_ns: CLOCK_REALTIME of the capture.
        monotonic_ns: CLOCK_MONOTONIC of the capture, to which `ThreadState.deadline_ns` refers.
        scope: how much was captured.
        leave: what `close` does with live processes.
        processes: parents before their children.
        files: every open file once; `Descriptor.file` counts in them.
        shared: every piece of shared memory once; `Mapping.memory` and `MemoryFile.memory` count in them.
        pipes: `PipeEnd.pipe` counts in them.
        sockets: `SocketEnd.pair` counts in them.
        vdso_digest: sha256 of the [vdso] image in hex, "" where there is none: the same image at another address can
            be moved, another image has other functions at other places.
        unsupported: what could not be captured and was taken on by name.
        policy: text of the policy it ran under, for the reader; a restore takes its policy from the restorer.
        app_state: bytes of the caller, or None.
        cow: directory that holds a snapshot of the copy-on-write branch, or None.
        source: reads the contents of memory.
        tracking: of live processes that a tracker watches: what changed since its earlier captures.
        spare: of live processes: makes the next `close` let them run on, whatever `leave` says; None for an image.

    """

    name: str
    architecture: str
    kernel: str
    page_size: int
    captured_ns: int
    monotonic_ns: int
    scope: Scope
    leave: Leave
    processes: tuple[ProcessInfo, ...]
    files: tuple[OpenFile, ...]
    shared: tuple[SharedMemory, ...]
    pipes: tuple[Pipe, ...]
    sockets: tuple[SocketPair, ...]
    vdso_digest: str
    unsupported: tuple[Unsupported, ...]
    policy: str = ""
    app_state: bytes | None = None
    cow: str | None = None
    source: MemorySource = field(compare=False, repr=False, kw_only=True)
    spare: Callable[[], object] | None = field(default=None, compare=False, repr=False, kw_only=True)
    tracking: Tracking | None = field(default=None, compare=False, repr=False, kw_only=True)

    def save(self, path: str | os.PathLike[str], *, store: Store | None = None, **options: Any) -> None:
        """Write the image to `path`, or by that name to a store, and close this checkpoint; see `image.save.save`."""
        # Imported here: the format knows this model, and a capture that is restored at once needs no format.
        from sandlock_checkpoint.image.save import save

        write = save if store is None else store.save
        write(self, os.fspath(path), **options)

    def close(self) -> None:
        """Let the processes go, as `leave` says, or close the image's files."""
        self.source.close()

    def abandon(self) -> None:
        """Close it, and let its processes run on: they have not been saved."""
        if self.spare is not None:
            self.spare()
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What failed in the meantime may be a save: who has no image yet is not killed for it.
        self.close() if kind is None else self.abandon()
