"""The generated tables against what is known for certain, and against the kernel this runs on."""

from __future__ import annotations

import ctypes
import errno
import os

import sandlock_arch
from sandlock_arch import Architecture

FIRST_UNIFIED = 424  # pidfd_send_signal, 5.1: from here on all architectures use one number
GENERIC = ("aarch64", "riscv64")  # both follow scripts/syscall.tbl

PROBED_ABOVE = 64  # numbers; kernels add some five a year


def test_anchors() -> None:
    x86, arm, riscv = (sandlock_arch.get(name).syscalls for name in ("x86_64", "aarch64", "riscv64"))
    assert (x86["read"], x86["execve"], x86["clock_gettime"], x86["time"]) == (0, 59, 228, 201)
    assert (arm["read"], arm["execve"], arm["clock_gettime"], arm["gettimeofday"]) == (63, 221, 113, 169)
    assert (riscv["read"], riscv["riscv_hwprobe"], riscv["riscv_flush_icache"]) == (63, 258, 259)
    assert x86["clone3"] == arm["clone3"] == riscv["clone3"] == 435
    assert "open" not in arm
    assert "time" not in riscv


def test_new_calls_have_one_number_everywhere() -> None:
    tables = [sandlock_arch.get(name).syscalls for name in sandlock_arch.names()]
    unified = [{name: number for name, number in table.items() if number >= FIRST_UNIFIED} for table in tables]
    for name in set().union(*unified):
        assert len({table[name] for table in unified if name in table}) == 1, name


def test_generic_tables_agree() -> None:
    one, other = (sandlock_arch.get(name).syscalls for name in GENERIC)
    assert {name for name in one.keys() & other.keys() if one[name] != other[name]} == set()


def test_numbers_are_used_once_and_none_is_foreign(architecture: Architecture) -> None:
    numbers = list(architecture.syscalls.values())
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) == architecture.last_reviewed_syscall
    assert not any(number & architecture.foreign_bit for number in numbers)


def test_sec_17_running_kernel_has_no_call_above_the_last_reviewed() -> None:
    architecture = sandlock_arch.native()
    first = architecture.last_reviewed_syscall + 1
    assert answered(range(first, first + PROBED_ABOVE)) == []
    # The control: a call that exists is seen this way.
    assert answered([architecture.syscalls["getpid"]]) == [architecture.syscalls["getpid"]]


def test_sec_17_running_kernel_has_no_call_in_the_gaps_of_the_table() -> None:
    architecture = sandlock_arch.native()
    gaps = set(range(architecture.last_reviewed_syscall)) - set(architecture.syscalls.values())
    assert answered(sorted(gaps)) == []


def answered(numbers: range | list[int]) -> list[int]:
    """Return which system calls exist: those that answer anything but ENOSYS to arguments of -1, asked in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        known = []
        for number in numbers:
            ctypes.set_errno(0)
            if (
                libc.syscall(ctypes.c_long(number), *(ctypes.c_long(-1),) * 6) != -1
                or ctypes.get_errno() != errno.ENOSYS
            ):
                known.append(number)
        os.write(writer, b" ".join(b"%d" % number for number in known))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        output = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return [int(number) for number in output.split()]
