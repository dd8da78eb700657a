"""A tracer stops a child, reads and changes it, and lets it go unharmed."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sandlock_sys import procmem, ptrace
from sandlock_sys.constants.ptrace import Event, Option, RegisterSet, WaitOption
from sandlock_sys.errors import SyscallError

pytestmark = pytest.mark.needs("ptrace")

GENERAL_SIZE = {"x86_64": 27 * 8, "aarch64": 34 * 8, "riscv64": 32 * 8}[os.uname().machine]
SYSGOOD = signal.SIGTRAP | 0x80


def stop(pid: int, options: int = 0) -> ptrace.Stopped:
    ptrace.seize(pid, options)
    ptrace.interrupt(pid)
    change = ptrace.wait(pid)
    assert isinstance(change, ptrace.Stopped)
    return change


@pytest.fixture
def stopped(sleeper: int) -> Iterator[int]:
    """A seized child, stopped by an interrupt."""
    # Past fork's tail: a child that has run its own code is in its sleep.
    deadline = time.monotonic() + 10
    while open(f"/proc/{sleeper}/stat").read().rpartition(")")[2].split()[0] != "S":  # noqa: SIM115
        assert time.monotonic() < deadline
    assert stop(sleeper) == ptrace.Stopped(sleeper, signal.SIGTRAP, Event.STOP)
    yield sleeper
    ptrace.detach(sleeper)


def test_an_interrupted_child_runs_on_after_detach(child: Any) -> None:
    reader, writer = os.pipe()

    def body() -> None:
        time.sleep(0.2)
        os.write(writer, b"ran on")

    with child(body) as pid:
        stop(pid, Option.EXITKILL)
        ptrace.detach(pid)
        assert os.read(reader, 10) == b"ran on"
    os.close(reader)
    os.close(writer)


def test_general_registers_round_trip_and_change(stopped: int) -> None:
    registers = ptrace.get_regset(stopped, RegisterSet.PRSTATUS)
    assert len(registers) == GENERAL_SIZE
    ptrace.set_regset(stopped, RegisterSet.PRSTATUS, registers)
    changed = bytearray(registers)
    changed[8] ^= 0x55  # a callee-saved register on every machine
    ptrace.set_regset(stopped, RegisterSet.PRSTATUS, bytes(changed))
    assert ptrace.get_regset(stopped, RegisterSet.PRSTATUS) == changed
    ptrace.set_regset(stopped, RegisterSet.PRSTATUS, registers)
    assert ptrace.get_regset(stopped, RegisterSet.PRSTATUS) == registers


def test_wide_register_sets_come_whole(stopped: int) -> None:
    floating = ptrace.get_regset(stopped, RegisterSet.PRFPREG)
    assert len(floating) > 100
    ptrace.set_regset(stopped, RegisterSet.PRFPREG, floating)
    if os.uname().machine == "x86_64":
        extended = ptrace.get_regset(stopped, RegisterSet.X86_XSTATE)
        assert len(extended) >= 576
        ptrace.set_regset(stopped, RegisterSet.X86_XSTATE, extended)
        assert ptrace.get_regset(stopped, RegisterSet.X86_XSTATE) == extended


def test_wrong_register_sets_are_refused(stopped: int) -> None:
    with pytest.raises(SyscallError) as caught:
        ptrace.get_regset(stopped, 0x7777)
    assert caught.value.errno == errno.EINVAL
    registers = ptrace.get_regset(stopped, RegisterSet.PRSTATUS)
    with pytest.raises(SyscallError) as caught:
        ptrace.set_regset(stopped, RegisterSet.PRSTATUS, registers[:-1])
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match=f"has {GENERAL_SIZE} bytes"):
        ptrace.set_regset(stopped, RegisterSet.PRSTATUS, registers + bytes(8))


def test_a_running_tracee_and_another_thread_are_refused(sleeper: int) -> None:
    ptrace.seize(sleeper)
    with pytest.raises(SyscallError) as caught:
        ptrace.get_regset(sleeper, RegisterSet.PRSTATUS)
    assert caught.value.errno == errno.ESRCH
    ptrace.interrupt(sleeper)
    ptrace.wait(sleeper)
    seen: list[int] = []

    def elsewhere() -> None:
        try:
            ptrace.get_regset(sleeper, RegisterSet.PRSTATUS)
        except SyscallError as error:
            seen.append(error.errno)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [errno.ESRCH]
    ptrace.detach(sleeper)


def test_system_calls_are_seen_on_both_sides(child: Any, numbers: dict[str, int]) -> None:
    def body() -> None:
        time.sleep(0.1)
        while True:
            os.getppid()

    with child(body) as pid:
        ptrace.seize(pid, Option.TRACESYSGOOD | Option.EXITKILL)
        ptrace.interrupt(pid)
        ptrace.wait(pid)
        assert ptrace.get_syscall_info(pid).stop is ptrace.SyscallStop.NONE
        for _ in range(1000):
            ptrace.to_syscall(pid)
            assert ptrace.wait(pid) == ptrace.Stopped(pid, SYSGOOD, 0)
            info = ptrace.get_syscall_info(pid)
            if info.stop is ptrace.SyscallStop.ENTRY and info.nr == numbers["getppid"]:
                break
        else:
            pytest.fail("no getppid in 500 system calls")
        assert (len(info.args), info.arch != 0, info.stack_pointer != 0) == (6, True, True)
        ptrace.to_syscall(pid)
        assert isinstance(change := ptrace.wait(pid), ptrace.Stopped)
        assert change.pending_signal == 0
        info = ptrace.get_syscall_info(pid)
        assert (info.stop, info.value, info.is_error) == (ptrace.SyscallStop.EXIT, os.getpid(), False)


def test_a_signal_is_held_and_handed_on(sleeper: int) -> None:
    ptrace.seize(sleeper)
    os.kill(sleeper, signal.SIGUSR1)
    change = ptrace.wait(sleeper)
    assert isinstance(change, ptrace.Stopped)
    assert (change.event, change.pending_signal) == (0, signal.SIGUSR1)
    info = ptrace.get_siginfo(sleeper)
    assert int.from_bytes(info[:4], "little") == signal.SIGUSR1
    assert int.from_bytes(info[16:20], "little") == os.getpid()
    altered = info[:4] + b"\x07\0\0\0" + info[8:]
    ptrace.set_siginfo(sleeper, altered)
    assert ptrace.get_siginfo(sleeper) == altered
    ptrace.cont(sleeper, change.pending_signal)
    assert ptrace.wait(sleeper) == ptrace.Killed(sleeper, signal.SIGUSR1, core=False)


def test_a_suppressed_signal_does_not_kill(sleeper: int) -> None:
    ptrace.seize(sleeper)
    os.kill(sleeper, signal.SIGUSR1)
    assert isinstance(ptrace.wait(sleeper), ptrace.Stopped)
    ptrace.cont(sleeper)
    assert ptrace.wait(sleeper, WaitOption.ALL | WaitOption.NOHANG) is None
    os.kill(sleeper, 0)


def test_a_group_stop_is_listened_to(sleeper: int) -> None:
    ptrace.seize(sleeper)
    os.kill(sleeper, signal.SIGSTOP)
    delivery = ptrace.wait(sleeper)
    assert delivery == ptrace.Stopped(sleeper, signal.SIGSTOP, 0)
    ptrace.cont(sleeper, signal.SIGSTOP)
    group = ptrace.wait(sleeper)
    assert group == ptrace.Stopped(sleeper, signal.SIGSTOP, Event.STOP)
    ptrace.listen(sleeper)
    assert ptrace.wait(sleeper, WaitOption.ALL | WaitOption.NOHANG) is None
    os.kill(sleeper, signal.SIGCONT)
    assert ptrace.wait(sleeper) == ptrace.Stopped(sleeper, signal.SIGTRAP, Event.STOP)


def test_a_fork_and_an_exit_are_announced_with_their_number(child: Any) -> None:
    def body() -> None:
        time.sleep(0.1)
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        os._exit(7)

    with child(body) as pid:
        stop(pid)
        ptrace.set_options(pid, Option.TRACEFORK | Option.TRACEEXIT | Option.EXITKILL)
        ptrace.cont(pid)
        assert ptrace.wait(pid) == ptrace.Stopped(pid, signal.SIGTRAP, Event.FORK)
        grandchild = ptrace.get_event_message(pid)
        assert ptrace.wait(grandchild) == ptrace.Stopped(grandchild, signal.SIGTRAP, Event.STOP)
        ptrace.detach(grandchild)
        ptrace.cont(pid)
        while (change := ptrace.wait(pid)) != ptrace.Stopped(pid, signal.SIGTRAP, Event.EXIT):
            assert isinstance(change, ptrace.Stopped)
            ptrace.cont(pid, change.pending_signal)
        assert ptrace.get_event_message(pid) == 7 << 8
        ptrace.cont(pid)
        assert ptrace.wait(pid) == ptrace.Exited(pid, 7)
        with pytest.raises(SyscallError) as caught:
            ptrace.wait(pid)
        assert caught.value.errno == errno.ECHILD


def test_the_signal_mask_round_trips(stopped: int) -> None:
    assert ptrace.get_signal_mask(stopped) == 0
    mask = 1 << signal.SIGUSR2 - 1 | 1 << 63
    ptrace.set_signal_mask(stopped, mask)
    assert ptrace.get_signal_mask(stopped) == mask
    with open(f"/proc/{stopped}/status") as file:
        assert f"SigBlk:\t{mask:016x}\n" in file.read()
    ptrace.set_signal_mask(stopped, 0)


def test_words_are_peeked_and_poked_also_in_read_only_memory(child: Any) -> None:
    area = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), 1) == 0
    with child(lambda: time.sleep(60)) as pid:
        stop(pid)
        word = 0x1122_3344_5566_7788
        with pytest.raises(SyscallError) as caught:
            procmem.write(pid, address, word.to_bytes(8, "little"))
        assert caught.value.errno == errno.EFAULT
        ptrace.poke(pid, address, word)
        assert ptrace.peek(pid, address) == word
        assert procmem.read(pid, address, 8) == word.to_bytes(8, "little")
        with pytest.raises(SyscallError) as caught:
            ptrace.peek(pid, 8)
        assert caught.value.errno == errno.EIO
        ptrace.detach(pid)


def test_a_single_step_moves_the_child(child: Any) -> None:
    def spin() -> None:
        while True:
            pass

    with child(spin) as pid:
        stop(pid, Option.EXITKILL)
        before = ptrace.get_syscall_info(pid).instruction_pointer
        pointers = set()
        for _ in range(5):
            ptrace.single_step(pid)
            assert ptrace.wait(pid) == ptrace.Stopped(pid, signal.SIGTRAP, 0)
            pointers.add(ptrace.get_syscall_info(pid).instruction_pointer)
        assert pointers - {before}


def test_rseq_is_what_libc_registered(stopped: int) -> None:
    configuration = ptrace.get_rseq_configuration(stopped)
    assert (configuration.pointer == 0) == (configuration.size == 0)
    if configuration.pointer:
        assert configuration.size >= 20
        assert len(procmem.read(stopped, configuration.pointer, configuration.size)) == configuration.size


def test_seizing_what_is_not_there_or_taken_is_refused(stopped: int, child: Any) -> None:
    with pytest.raises(SyscallError) as caught:
        ptrace.seize(stopped)
    assert caught.value.errno == errno.EPERM
    with child(lambda: None) as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(SyscallError):
            ptrace.seize(pid)


def test_a_stopped_and_continued_child_is_reported() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    options = WaitOption.ALL | WaitOption.UNTRACED | WaitOption.CONTINUED
    os.kill(pid, signal.SIGSTOP)
    assert ptrace.wait(pid, options) == ptrace.Stopped(pid, signal.SIGSTOP, 0)
    os.kill(pid, signal.SIGCONT)
    assert ptrace.wait(pid, options) == ptrace.Continued(pid)
    os.kill(pid, signal.SIGKILL)
    assert ptrace.wait(pid, options) == ptrace.Killed(pid, signal.SIGKILL, core=False)
