"""Bring processes into the world under the ids that the captured ones had, where that can be done.

Ids are kept in memory by programs and libraries: an event loop of CPython refuses to run in a process that has another
pid than the one it began in. Whoever may, asks the kernel for an id (clone3(2), set_tid, 5.5): root in its own
pid namespace, anybody in a pid namespace that was made with a user namespace of his own. So three ways are tried:

1. the very id, here: root, when it is free;
2. the very id in a new pid namespace with its own /proc: any number of restores may run side by side there. Its first
   process is a stub of ours, which ends when the restored process does;
3. whatever id the kernel gives.
"""

from __future__ import annotations

import contextlib
import enum
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from sandlock_checkpoint.errors import InjectionError, RestoreError
from sandlock_checkpoint.restore.next_ids import NextIds
from sandlock_checkpoint.restore.stub import waiting_place
from sandlock_checkpoint.restore.target import Target
from sandlock_checkpoint.tracing import TraceeGoneError, wait_change, wait_event_stop
from sandlock_sys import ptrace
from sandlock_sys.errors import SyscallError

__all__ = ["Birth", "Ids", "become_zombie", "drop_powers", "fork_child", "give_birth"]

_CLONE_PARENT = 0x8000  # linux/sched.h
_NEW_NS, _NEW_USER, _NEW_PID = 0x0002_0000, 0x1000_0000, 0x2000_0000  # CLONE_NEW*
_SIGCHLD = 17
_TIMEOUT_S = 10.0
_SCRATCH = 1 << 14
_PRIVATE_TREE = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
_PROC_FLAGS = 2 | 4 | 8  # MS_NOSUID | MS_NODEV | MS_NOEXEC
_CAP_CHECKPOINT_RESTORE, _CAP_SYS_ADMIN = 40, 21  # linux/capability.h; the first is in 5.9
_CAP_VERSION = 0x2008_0522  # _LINUX_CAPABILITY_VERSION_3
_AMBIENT, _AMBIENT_RAISE, _AMBIENT_CLEAR = 47, 2, 4  # PR_CAP_AMBIENT, linux/prctl.h, 4.3
_POLLIN = 1
_WORD = (1 << 64) - 1


class Ids(enum.Enum):
    """Which process and thread ids a restored process has."""

    KEEP = "keep"  # those it had, or the restore is refused
    PREFER = "prefer"  # those it had where that can be done, else new ones
    NEW = "new"  # those that the kernel gives


@dataclass(frozen=True, slots=True)
class Birth:
    """The first process, and whether it has powers in a user namespace that must be dropped before it runs."""

    target: Target
    powers: bool


def give_birth(launcher: Target, wanted: Sequence[int], ids: Ids, *, may_unshare: bool) -> Birth:
    """Return the process that is to become the first one; the launcher is it, or has made it and ended.

    Arguments:
        launcher: the stub, seized.
        wanted: every process and thread id of the checkpoint, that of the first process first. All or none: a process
            waits for its children by their ids.
        ids: whether that matters.
        may_unshare: the launcher is ours alone and may move into namespaces; not where someone else has confined it.

    """
    pid = wanted[0]
    if ids is Ids.NEW or launcher.call("getpid") == pid:
        return Birth(launcher, powers=False)
    with launcher.main_scratch() as scratch:
        launcher.scratch, launcher.scratch_size = scratch.address, scratch.size
        taken = may_unshare and any(os.path.exists(f"/proc/{number}") for number in wanted)
        made = None if taken else _clone(launcher, pid, _CLONE_PARENT)
        powers = False
        if made is None and may_unshare:
            made, powers = _in_namespace(launcher, pid)
    if made is None:
        if ids is Ids.KEEP:
            raise RestoreError("pid", f"the restored process cannot have its pid, {pid}, here")
        return Birth(launcher, powers=False)
    _end(launcher)
    return Birth(made, powers)


def _clone(parent: Target, pid: int, flags: int) -> Target | None:
    """Make a process with this id; None where that is not permitted, or it is taken."""
    before = len(parent.main.born)
    wanted = parent.put(pid.to_bytes(4, "little"), 256)
    # struct clone_args; a sibling has its exit signal from the process that makes it
    arguments = struct.pack("<11Q", flags, 0, 0, 0, 0, 0, 0, 0, wanted, 1, 0)
    if parent.errno("clone3", parent.put(arguments), len(arguments)):
        return None
    return _adopt(parent, before)


def _adopt(parent: Target, before: int) -> Target:
    if len(parent.main.born) != before + 1:
        raise RestoreError("clone", "the kernel did not tell of the process that was made")
    pid = parent.main.born[-1]
    wait_event_stop(pid, _TIMEOUT_S)
    return Target.adopt(pid, parent.architecture)


def _in_namespace(launcher: Target, pid: int) -> tuple[Target | None, bool]:
    """Make the process in a pid namespace of its own; (None, False) where the host does not allow it."""
    powers = bool(launcher.errno("unshare", _NEW_PID | _NEW_NS))
    if powers:
        if launcher.errno("unshare", _NEW_USER | _NEW_PID | _NEW_NS):
            return None, False
        _map_ids(launcher)
        _raise_ambient(launcher)
    before = len(launcher.main.born)
    launcher.call("clone", _SIGCHLD, 0, 0, 0, 0)
    first = _adopt(launcher, before)
    first.scratch, first.scratch_size = launcher.scratch, launcher.scratch_size
    _own_proc(first)
    made = _clone(launcher, pid, _CLONE_PARENT)
    if made is None:
        first.kill()
        return None, False
    _keep_first(first, pid)
    return made, powers


def _map_ids(launcher: Target) -> None:
    """Map the caller's own ids onto themselves, all that an ordinary user may map."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{os.geteuid()} {os.geteuid()} 1"),
        ("gid_map", f"{os.getegid()} {os.getegid()} 1"),
    ):
        with open(f"/proc/{launcher.pid}/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _raise_ambient(target: Target) -> None:
    """Keep the powers that ids need when the program is executed; `drop_powers` takes them away before it runs."""
    wanted = 1 << _CAP_CHECKPOINT_RESTORE | 1 << _CAP_SYS_ADMIN
    header = target.put(struct.pack("<II", _CAP_VERSION, 0))
    target.call("capget", header, target.scratch + 64)
    words = list(struct.unpack("<6I", target.get(24, 64)))
    for half in range(2):
        words[half * 3 + 2] |= wanted >> half * 32 & 0xFFFFFFFF & words[half * 3 + 1]
    target.call("capset", header, target.put(struct.pack("<6I", *words), 64))
    for capability in (_CAP_CHECKPOINT_RESTORE, _CAP_SYS_ADMIN):
        target.errno("prctl", _AMBIENT, _AMBIENT_RAISE, capability, 0, 0)


def _own_proc(first: Target) -> None:
    """Mount a /proc that shows the new ids. Where the host has parts of /proc hidden it refuses; the old one stays."""
    if not first.errno("mount", 0, first.put(b"/\0"), 0, _PRIVATE_TREE, 0):
        name = first.put(b"proc\0", 64)
        first.errno("mount", name, first.put(b"/proc\0"), name, _PROC_FLAGS, 0)


def _keep_first(first: Target, pid: int) -> None:
    """Let the namespace's first process wait for the restored one, and end with it; orphans it reaps unseen."""
    ignore = struct.pack("<QQQQ", 1, 0, 0, 0)  # SIG_IGN: the kernel buries its children itself
    first.call("rt_sigaction", _SIGCHLD, first.put(ignore), 0, 8)
    first.call("setsid")
    first.call("close_range", 0, 0xFFFFFFFF, 0)
    pidfd = first.call("pidfd_open", pid, 0)
    # The memory that `poll` reads must outlast our scratch memory, which goes when the restorer is done.
    page = first.call("mmap", 0, 4096, 3, 0x22, _WORD, 0)
    first.scratch, first.scratch_size = page, 4096
    polled = first.put(struct.pack("<ihh", pidfd, _POLLIN, 0))
    first.main.leave_waiting(waiting_place(first.architecture), "ppoll", polled, 1, 0, 0, 8)


def _end(launcher: Target) -> None:
    """End the launcher, and wait for that."""
    launcher.kill()
    with contextlib.suppress(TraceeGoneError, SyscallError):
        while True:
            wait_change(launcher.pid, _TIMEOUT_S)


def fork_child(parent: Target, pid: int, exit_signal: int, ids: Ids, next_ids: NextIds) -> Target:
    """Make a child of `parent`, whose scratch memory is there, with this id if `ids` wants it."""
    before = len(parent.main.born)
    if ids is not Ids.NEW:
        wanted = parent.put(pid.to_bytes(4, "little"), 256)
        arguments = struct.pack("<11Q", 0, 0, 0, 0, exit_signal, 0, 0, 0, wanted, 1, 0)
        if not parent.errno("clone3", parent.put(arguments), len(arguments)):
            return _adopt(parent, before)
        next_ids.ask_for(pid)
    parent.call("clone", exit_signal, 0, 0, 0, 0)
    child = _adopt(parent, before)
    # In a fresh namespace the kernel counts from where the captured one may have counted.
    if ids is Ids.KEEP and child.call("getpid") != pid:
        child.kill()
        raise RestoreError("pid", f"the restored process cannot have its pid, {pid}, here")
    return child


def drop_powers(target: Target) -> None:
    """Take away every capability of every thread: what the program never had, it must not have now."""
    header = target.put(struct.pack("<II", _CAP_VERSION, 0))
    nothing = target.put(bytes(24), 64)
    for injector in target.injectors:
        injector.call("prctl", _AMBIENT, _AMBIENT_CLEAR, 0, 0, 0)
        injector.call("capset", header, nothing)


def become_zombie(target: Target, status: int) -> None:
    """Let a child end as the captured one had ended."""
    if status & 0x7F:
        with contextlib.suppress(ProcessLookupError):
            os.kill(target.pid, status & 0x7F)
        with contextlib.suppress(SyscallError):
            ptrace.detach(target.pid, status & 0x7F)
        target.kill()
    else:
        with contextlib.suppress(InjectionError):
            target.call("exit_group", status >> 8 & 0xFF)
    with contextlib.suppress(TraceeGoneError, SyscallError):
        while True:
            wait_change(target.pid, _TIMEOUT_S)
