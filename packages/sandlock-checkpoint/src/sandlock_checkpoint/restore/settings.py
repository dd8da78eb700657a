"""Put back what belongs to a whole process: signal actions, timers, limits and settings."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from sandlock_checkpoint.errors import RestoreError
from sandlock_checkpoint.model import PosixTimer, ProcessInfo
from sandlock_checkpoint.restore.target import Target
from sandlock_checkpoint.terms import Unsupported
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import read_status

__all__ = ["arm_timers", "queue_signals", "restore_actions", "restore_settings", "set_dumpable"]

_UNTOUCHABLE = {9, 19}  # SIGKILL, SIGSTOP
_WORD = (1 << 64) - 1
_SECOND = 1_000_000_000
_THREAD_ID = 4  # SIGEV_THREAD_ID
_SIGEVENT = struct.Struct("<Qiii44x")  # sigevent_t: value, signo, notify, tid
_SET_DUMPABLE, _SET_CHILD_SUBREAPER, _SET_THP_DISABLE, _SET_NO_NEW_PRIVS = 4, 36, 41, 38  # linux/prctl.h
# MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, .._SYNC_CORE, .._RSEQ, 4.14 to 5.10. Before 6.3 nobody is told whether a
# process has them. All have them after a restore: without, membarrier(2) fails in who had; with, nothing else changes.
_REGISTRATIONS = (1 << 4, 1 << 6, 1 << 8)
_RESTORE_IDS = 77  # PR_TIMER_CREATE_RESTORE_IDS, 6.15
_TRIES = 1 << 16


def restore_actions(target: Target, process: ProcessInfo, *, restorer: bool) -> None:
    """Set every signal action: those of the checkpoint, and the default for those that the restorer's child ignores."""
    wanted = {action.signal: action for action in process.actions}
    ignored = read_status(target.pid).signals_ignored
    for signal in range(1, 65):
        if signal in _UNTOUCHABLE:
            continue
        if signal in wanted:
            action = wanted[signal]
            words = [action.handler, action.flags, *([action.restorer] if restorer else []), action.mask]
        elif ignored >> signal - 1 & 1:
            words = [0, 0, 0, *([0] if restorer else [])]
        else:
            continue
        data = b"".join(word.to_bytes(8, "little") for word in words)
        target.call("rt_sigaction", signal, target.put(data), 0, 8)


def restore_settings(target: Target, process: ProcessInfo) -> list[Unsupported]:
    """Set cwd, umask, personality and the like; return what the host refused."""
    refused = []
    error = target.errno("chdir", target.put(process.cwd + b"\0"))
    if error:
        raise RestoreError(f"working directory {os.fsdecode(process.cwd)}", os.strerror(error))
    target.call("umask", process.umask)
    target.call("personality", process.personality)
    if process.no_new_privs:
        target.call("prctl", _SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    target.call("prctl", _SET_CHILD_SUBREAPER, process.child_subreaper)
    if process.thp_disable:
        target.errno("prctl", _SET_THP_DISABLE, 1, 0, 0, 0)
    for command in _REGISTRATIONS:
        target.errno("membarrier", command, 0, 0)
    for limit in process.limits:
        refused += _limit(target, limit.resource, limit.soft, limit.hard)
    return refused


def _limit(target: Target, resource: int, soft: int, hard: int) -> list[Unsupported]:
    """Set one limit, never wider than the restorer's own."""
    target.call("prlimit64", 0, resource, 0, target.scratch)
    now_soft, now_hard = struct.unpack("<QQ", target.get(16))
    hard, soft = min(hard, now_hard), min(soft, now_hard)
    if (soft, hard) == (now_soft, now_hard):
        return []
    error = target.errno("prlimit64", 0, resource, target.put(struct.pack("<QQ", soft, hard)), 0)
    if error:
        return [Unsupported(f"limit:{resource}", "limit", f"limit {resource} could not be set: {os.strerror(error)}")]
    return []


def set_dumpable(target: Target, process: ProcessInfo) -> None:
    """Set whether the process may be traced; 2 is the kernel's own choice and cannot be set."""
    if process.dumpable in {0, 1}:
        target.errno("prctl", _SET_DUMPABLE, process.dumpable)


def arm_timers(target: Target, process: ProcessInfo, tids: dict[int, int]) -> None:
    """Make and arm all timers; they run from here on.

    Arguments:
        target: the process.
        process: what it is to be.
        tids: captured thread ids -> those of now, as the process has them.

    """
    tries = iter(range(_TRIES))  # for all of them together: an image may name ids that are far apart
    for timer in process.posix_timers:
        _make_timer(target, timer, tids, tries)
    for interval in process.interval_timers:
        data = struct.pack(
            "<qqqq",
            interval.interval_us // 1_000_000, interval.interval_us % 1_000_000,
            interval.value_us // 1_000_000, interval.value_us % 1_000_000,
        )  # fmt: skip
        target.call("setitimer", interval.which, target.put(data), 0)


def _make_timer(target: Target, timer: PosixTimer, tids: dict[int, int], tries: Iterator[int]) -> None:
    tid = tids.get(timer.tid, 0) if timer.notify & _THREAD_ID else 0
    event = target.put(_SIGEVENT.pack(timer.value & _WORD, timer.signal, timer.notify, tid), 64)
    exact = target.errno("prctl", _RESTORE_IDS, 1, 0, 0, 0) == 0
    try:
        for _ in tries:
            target.put(timer.id.to_bytes(4, "little"))
            target.call("timer_create", timer.clock & _WORD, event, target.scratch)
            made = int.from_bytes(target.get(4), "little")
            if made == timer.id:
                break
            # The kernel counts ids upwards; take those before ours and give them back.
            target.call("timer_delete", made)
        else:
            raise RestoreError(f"timer {timer.id}", "the kernel does not give this id")
    except SyscallError as error:
        raise RestoreError(f"timer {timer.id}", str(error)) from error
    finally:
        if exact:
            target.errno("prctl", _RESTORE_IDS, 0, 0, 0, 0)
    data = struct.pack(
        "<qqqq",
        timer.interval_ns // _SECOND, timer.interval_ns % _SECOND, timer.value_ns // _SECOND, timer.value_ns % _SECOND,
    )  # fmt: skip
    target.call("timer_settime", timer.id, 0, target.put(data), 0)


def queue_signals(target: Target, process: ProcessInfo, pid: int) -> None:
    """Send the process the signals that waited for it; they wait behind the mask until the thread runs.

    Arguments:
        target: the process.
        process: what it is to be.
        pid: its pid as it sees it itself.

    """
    for info in process.pending:
        number = int.from_bytes(info[:4], "little")
        target.call("rt_sigqueueinfo", pid, number, target.put(info))
