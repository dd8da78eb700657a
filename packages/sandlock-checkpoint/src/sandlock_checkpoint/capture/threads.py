"""Write down one stopped thread: registers, masks, waiting signals, and what only the thread itself can be asked."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from errno import EIO

from sandlock_arch import Architecture
from sandlock_arch.call_abi import error_of
from sandlock_checkpoint.capture.interrupted import Interrupted, examine
from sandlock_checkpoint.inject import Injector, Scratch
from sandlock_checkpoint.model import (
    Registers,
    RobustList,
    Rseq,
    Scheduling,
    SignalStack,
    ThreadState,
)
from sandlock_sys import ptrace
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import Status, read_status

__all__ = ["Snapshot", "describe_thread", "mend_interrupted", "read_registers", "take_snapshot"]

_PRSTATUS = 1  # NT_PRSTATUS
_ABSENT = {19, 22, 61}  # ENODEV, EINVAL, ENODATA: this machine or thread has no such set
_STACK = struct.Struct("<QIxxxxQ")  # stack_t, asm-generic/signal.h
_ON_STACK = 1  # SS_ONSTACK: where the thread is, not how the stack is set up
_NO_STACK = 2  # SS_DISABLE
_GET_PARENT_DEATH_SIGNAL = 2  # PR_GET_PDEATHSIG, linux/prctl.h, 2.3.15
_GET_TIMER_SLACK = 30  # PR_GET_TIMERSLACK, 2.6.28
_GET_TID_ADDRESS = 40  # PR_GET_TID_ADDRESS, 3.5, CONFIG_CHECKPOINT_RESTORE


def read_registers(tid: int, architecture: Architecture) -> tuple[Registers, ...]:
    """Return all register sets of a stopped thread; one that another covers wholly is left out."""
    found = [Registers("general", _PRSTATUS, ptrace.get_regset(tid, _PRSTATUS))]
    covered: set[int] = set()
    for regset in architecture.registers.regsets:
        if regset.note in covered or not regset.writable:
            continue
        try:
            data = ptrace.get_regset(tid, regset.note)
        except SyscallError as error:
            if error.errno in _ABSENT:
                continue
            raise
        covered |= set(regset.covers)
        found.append(Registers(regset.name, regset.note, data))
    return tuple(found)


def mend_interrupted(pid: int, tid: int, architecture: Architecture) -> Interrupted:
    """Return what the thread was doing in the kernel; make the kernel repeat a call that only our stop has ended.

    It changes the return register of the stopped thread, so it is the first thing to be done with it.
    """
    mask = ptrace.get_signal_mask(tid)
    waiting = ptrace.peek_signals(tid, shared=False) + ptrace.peek_signals(tid, shared=True)
    deliverable = any(not mask >> int.from_bytes(info[:4], "little") - 1 & 1 for info in waiting)
    general = ptrace.get_regset(tid, _PRSTATUS)
    interrupted = examine(pid, architecture, general, deliverable=deliverable)
    if interrupted.general != general:
        ptrace.set_regset(tid, _PRSTATUS, interrupted.general)
    return interrupted


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What ptrace alone tells of a stopped thread, taken before anything is injected into it."""

    tid: int
    interrupted: Interrupted
    registers: tuple[Registers, ...]
    mask: int
    rseq: Rseq
    status: Status


def take_snapshot(pid: int, tid: int, interrupted: Interrupted, architecture: Architecture) -> Snapshot:
    """Return the snapshot of thread `tid`; `interrupted` is what `mend_interrupted` said about it."""
    rseq = Rseq(0, 0, 0, 0)
    try:
        known = ptrace.get_rseq_configuration(tid)
    except SyscallError as error:
        if error.errno != EIO:  # no rseq in this kernel, or before 5.13
            raise
    else:
        rseq = Rseq(known.pointer, known.size, known.signature, known.flags)
    return Snapshot(
        tid=tid,
        interrupted=interrupted,
        registers=read_registers(tid, architecture),
        mask=ptrace.get_signal_mask(tid),
        rseq=rseq,
        status=read_status(pid, tid),
    )


def describe_thread(snapshot: Snapshot, injector: Injector, scratch: Scratch, now_ns: int) -> ThreadState:
    """Return everything about a thread.

    Arguments:
        snapshot: of the thread.
        injector: of the thread, entered.
        scratch: memory of its process, at least a page; what is in it is overwritten.
        now_ns: CLOCK_MONOTONIC of the capture.

    """
    slack = injector.attempt("prctl", _GET_TIMER_SLACK)
    interrupted = snapshot.interrupted
    return ThreadState(
        tid=snapshot.status.ns_pid[-1] if snapshot.status.ns_pid else snapshot.tid,
        name=snapshot.status.name,
        registers=snapshot.registers,
        restart=interrupted.restart,
        syscall=interrupted.syscall,
        deadline_ns=now_ns + interrupted.left_ns if interrupted.left_ns else 0,
        signal_mask=snapshot.mask,
        pending=ptrace.peek_signals(snapshot.tid, shared=False),
        signal_stack=_signal_stack(injector, scratch),
        robust_list=_robust_list(injector, scratch),
        rseq=snapshot.rseq,
        tid_address=_pointer(injector, scratch, _GET_TID_ADDRESS),
        scheduling=_scheduling(snapshot.tid),
        parent_death_signal=_pointer(injector, scratch, _GET_PARENT_DEATH_SIGNAL, 4),
        timer_slack_ns=0 if error_of(slack) else slack,
    )


def _signal_stack(injector: Injector, scratch: Scratch) -> SignalStack:
    injector.call("sigaltstack", 0, scratch.address)
    address, flags, size = _STACK.unpack(scratch.read(_STACK.size))
    if flags & _NO_STACK:
        return SignalStack(0, _NO_STACK, 0)
    return SignalStack(address, flags & ~_ON_STACK, size)


def _robust_list(injector: Injector, scratch: Scratch) -> RobustList:
    injector.call("get_robust_list", 0, scratch.address, scratch.address + 8)
    head, size = struct.unpack("<QQ", scratch.read(16))
    return RobustList(head, size)


def _pointer(injector: Injector, scratch: Scratch, option: int, size: int = 8) -> int:
    scratch.write(bytes(8))
    injector.call("prctl", option, scratch.address)
    return int.from_bytes(scratch.read(size), "little")


def _scheduling(tid: int) -> Scheduling:
    return Scheduling(
        policy=os.sched_getscheduler(tid),
        priority=os.sched_getparam(tid).sched_priority,
        nice=os.getpriority(os.PRIO_PROCESS, tid),
        affinity=tuple(sorted(os.sched_getaffinity(tid))),
    )
