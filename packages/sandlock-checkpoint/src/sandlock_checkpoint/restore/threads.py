"""Make the threads of a process anew, with everything the kernel holds for each."""

from __future__ import annotations

import os
import struct
from errno import EEXIST, EINVAL, ENOSYS, EPERM

from sandlock_arch.call_abi import ERESTART_RESTARTBLOCK, RESTING_CALLS, error_of
from sandlock_checkpoint.errors import RestoreError
from sandlock_checkpoint.inject import Entry, Injector
from sandlock_checkpoint.model import ProcessInfo, ThreadState
from sandlock_checkpoint.restore.next_ids import NextIds
from sandlock_checkpoint.restore.target import Target
from sandlock_checkpoint.terms import Unsupported
from sandlock_checkpoint.tracing import wait_event_stop
from sandlock_sys import procmem, ptrace
from sandlock_sys.errors import SyscallError

__all__ = ["finish_thread", "make_threads", "patch_tid", "prepare_thread", "register_rseq", "resume_wait"]

# CLONE_* of linux/sched.h: what pthread_create shares
_VM, _FS, _FILES, _SIGHAND, _THREAD, _SYSVSEM = 0x100, 0x200, 0x400, 0x800, 0x10000, 0x40000
_THREAD_FLAGS = _VM | _FS | _FILES | _SIGHAND | _THREAD | _SYSVSEM
_TIMEOUT_S = 10.0
_WORD = (1 << 64) - 1
_NO_STACK = 2  # SS_DISABLE
_SET_NAME, _SET_TIMER_SLACK, _SET_PARENT_DEATH_SIGNAL = 15, 29, 1  # linux/prctl.h
_SEQUENCE = 8  # offset of rseq_cs in struct rseq
_SECOND = 1_000_000_000
_TID_MASK = 0x3FFF_FFFF  # FUTEX_TID_MASK, linux/futex.h
_LONGEST_LIST = 2048  # ROBUST_LIST_LIMIT, linux/futex.h
_OWNER = 8  # offset of the owner's tid behind a mutex's futex word in glibc (struct __pthread_mutex_s)


def make_threads(target: Target, process: ProcessInfo, next_ids: NextIds | None) -> None:
    """Make all threads but the main one; they stand stopped at the end of the call that made them.

    Arguments:
        target: the process.
        process: what it is to be.
        next_ids: to give them the ids that they had, where the kernel lets us; None where they do not matter.

    """
    for thread in process.threads[1:]:
        before = len(target.main.born)
        if next_ids is None or not _clone_as(target, thread.tid):
            if next_ids is not None:
                next_ids.ask_for(thread.tid)
            target.call("clone", _THREAD_FLAGS, 0, 0, 0, 0)
        if len(target.main.born) != before + 1:
            raise RestoreError(f"thread {thread.tid}", "the kernel did not tell of the thread that was made")
        tid = target.main.born[-1]
        wait_event_stop(tid, _TIMEOUT_S)
        injector = Injector(tid, target.architecture, Entry(target.main.entry))
        injector.begin()
        target.tids.append(tid)
        target.injectors.append(injector)


def _clone_as(target: Target, tid: int) -> bool:
    """Make a thread with this very id; False where that is not permitted, or the id is taken.

    It needs CAP_CHECKPOINT_RESTORE over the pid namespace (clone3(2), set_tid, 5.5), which root has, and whoever made
    the namespace together with a user namespace.
    """
    wanted = target.put(tid.to_bytes(4, "little"), 256)
    arguments = struct.pack("<11Q", _THREAD_FLAGS, 0, 0, 0, 0, 0, 0, 0, wanted, 1, 0)  # struct clone_args
    error = target.errno("clone3", target.put(arguments), len(arguments))
    if error in {EPERM, EEXIST, ENOSYS, EINVAL}:
        return False
    if error:
        raise RestoreError(f"thread {tid}", f"clone3: {os.strerror(error)}")
    return True


def prepare_thread(target: Target, injector: Injector, thread: ThreadState) -> list[Unsupported]:
    """Set everything the kernel holds for a thread but registers and mask; return what the host refused."""
    refused = []
    stack = thread.signal_stack
    if not stack.flags & _NO_STACK:
        data = struct.pack("<QIxxxxQ", stack.address, stack.flags, stack.size)
        injector.call("sigaltstack", target.put(data), 0)
    if thread.robust_list.head:
        injector.call("set_robust_list", thread.robust_list.head, thread.robust_list.size)
    injector.call("set_tid_address", thread.tid_address)
    injector.call("prctl", _SET_NAME, target.put(thread.name[:15] + b"\0"))
    injector.call("prctl", _SET_PARENT_DEATH_SIGNAL, thread.parent_death_signal)
    if thread.timer_slack_ns:
        injector.call("prctl", _SET_TIMER_SLACK, thread.timer_slack_ns)
    refused += _schedule(target, injector, thread)
    for info in thread.pending:
        number = int.from_bytes(info[:4], "little")
        own_pid, own_tid = injector.call("getpid"), injector.call("gettid")
        injector.call("rt_tgsigqueueinfo", own_pid, own_tid, number, target.put(info))
    return refused


def _schedule(target: Target, injector: Injector, thread: ThreadState) -> list[Unsupported]:
    wanted, tid = thread.scheduling, injector.tid
    refused = []
    if os.getpriority(os.PRIO_PROCESS, tid) != wanted.nice:
        refused.append(injector.attempt("setpriority", 0, 0, wanted.nice))
    if (os.sched_getscheduler(tid), os.sched_getparam(tid).sched_priority) != (wanted.policy, wanted.priority):
        parameter = target.put(wanted.priority.to_bytes(4, "little"))
        refused.append(injector.attempt("sched_setscheduler", 0, wanted.policy, parameter))
    if tuple(sorted(os.sched_getaffinity(tid))) != wanted.affinity and wanted.affinity:
        mask = sum(1 << cpu for cpu in wanted.affinity)  # the model's check bounds them
        size = (max(wanted.affinity) // 64 + 1) * 8
        refused.append(injector.attempt("sched_setaffinity", 0, size, target.put(mask.to_bytes(size, "little"))))
    errors = {error_of(result) for result in refused} - {0}
    return [
        Unsupported(f"thread:{thread.tid}", "scheduling", f"its scheduling could not be set: {os.strerror(error)}")
        for error in errors
    ]


def patch_tid(pid: int, thread: ThreadState, now: int) -> None:
    """Write the new thread id where the C library keeps the old one.

    glibc has its copy where the kernel is told to clear it when the thread ends, so it is found without knowing any
    layout: the word at `tid_address` is the captured id. The owners in the list of held robust mutexes are changed
    too. A recursive mutex that is held and not robust keeps its old owner; only a restore under the old ids cures that.
    """
    if now == thread.tid:
        return
    old = thread.tid.to_bytes(4, "little")
    new = now.to_bytes(4, "little")
    if thread.tid_address and _peek(pid, thread.tid_address, 4) == old:
        procmem.write(pid, thread.tid_address, new)
    head = thread.robust_list.head
    if not head:
        return
    words = _peek(pid, head, 16)
    if words is None:
        return
    entry, offset = struct.unpack("<Qq", words)
    for _ in range(_LONGEST_LIST):
        if entry & ~1 == head:
            break
        lock = (entry & ~1) + offset
        word = _peek(pid, lock, 4)
        if word is not None and int.from_bytes(word, "little") & _TID_MASK == thread.tid:
            kept = int.from_bytes(word, "little") & ~_TID_MASK
            procmem.write(pid, lock, (kept | now).to_bytes(4, "little"))
        if _peek(pid, lock + _OWNER, 4) == old:
            procmem.write(pid, lock + _OWNER, new)
        following = _peek(pid, entry & ~1, 8)
        if following is None:
            break
        entry = int.from_bytes(following, "little")


def _peek(pid: int, address: int, length: int) -> bytes | None:
    try:
        return procmem.read(pid, address, length)
    except (SyscallError, ValueError):
        # EFAULT, or no address at all: the program's own pointers lead nowhere, as they did when it was captured.
        return None


def resume_wait(target: Target, injector: Injector, thread: ThreadState, captured_ns: int) -> int:
    """Begin the wait again that was interrupted with time left; return what the return register is to hold.

    The call is made with the program's own arguments, but for a sleep of which less is left, and interrupted at once.
    Then the kernel holds for this thread what it held for the captured one, and goes on from there.
    """
    architecture = target.architecture
    general = architecture.registers.general.unpack(thread.registers[0].data)
    arguments = [general[name] for name in architecture.abi.argument_registers]
    name = next((name for name in RESTING_CALLS if architecture.syscalls.get(name) == thread.syscall), "")
    if not name:  # the image may name any call, and this is made before the program is let go
        raise RestoreError(f"thread {thread.tid}", f"call {thread.syscall} is none that goes on waiting")
    left = thread.deadline_ns - captured_ns
    if thread.deadline_ns and left > 0 and name in {"nanosleep", "clock_nanosleep"}:
        request = target.put(struct.pack("<qq", left // _SECOND, left % _SECOND))
        arguments[0 if name == "nanosleep" else 2] = request
    result = injector.attempt_blocking(name, *arguments)
    return result if error_of(result) != ERESTART_RESTARTBLOCK else -ERESTART_RESTARTBLOCK & _WORD


def finish_thread(target: Target, injector: Injector, thread: ThreadState, result: int | None) -> None:
    """Give a thread its registers and mask, at an event stop; it runs when it is let go.

    Arguments:
        target: its process.
        injector: of the thread; makes no call after this.
        thread: what it is to be.
        result: what the return register is to hold instead, or None.

    """
    injector.settle()
    layout, abi = target.architecture.registers, target.architecture.abi
    others = thread.registers[1:]
    for registers in others:
        try:
            ptrace.set_regset(injector.tid, registers.note, registers.data)
        except (SyscallError, ValueError) as error:
            raise RestoreError(f"thread {thread.tid}, {registers.name} registers", str(error)) from error
    data = thread.registers[0].data
    if result is not None:
        data = layout.general.replace(data, {abi.return_register: result})
    ptrace.set_regset(injector.tid, thread.registers[0].note, data)
    ptrace.set_signal_mask(injector.tid, thread.signal_mask)


def register_rseq(target: Target, injector: Injector, thread: ThreadState) -> None:
    """Register the restartable sequence area; a sequence that was interrupted is aborted as after a preemption."""
    rseq = thread.rseq
    if not rseq.address:
        return
    where = rseq.address + _SEQUENCE
    pointer = procmem.read(target.pid, where, 8)
    injector.call("rseq", rseq.address, rseq.size, rseq.flags, rseq.signature)
    if any(pointer):
        # The kernel cleared it when our call returned, far outside the sequence.
        injector.settle()
        procmem.write(target.pid, where, pointer)
