"""The same code on the processor of this machine: as functions, in a copy of the real vDSO, and in a living process."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import sandlock_arch
from sandlock_arch.stub import (
    NO_OPAQUE_STATE,
    ClockGettime,
    ForceGetrandom,
    ForceSyscall,
    Gettimeofday,
    StubOperation,
    forced,
    shifted_time,
)
from sandlock_arch.vdso import read_image
from sandlock_arch.vdso_patch import plan

NATIVE = sandlock_arch.native()
SECOND = 1_000_000_000  # ns
# Ten days back and a fraction; more than 32 bits of seconds ahead (Python itself gives up 292 years after 1970).
OFFSETS_NS = [-864_000 * SECOND - 250_000_000, ((1 << 32) + 17) * SECOND + 999_999_999]

Timespec = ctypes.c_int64 * 2


def vdso_mapping(pid: int | str) -> tuple[int, int]:
    """Return start and length of the [vdso] mapping."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        for line in maps:
            # A file's line has an inode and a path; only the kernel's own mapping has this name alone.
            if line.split()[3:] == ["00:00", "0", "[vdso]"]:
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                return start, end - start
    raise AssertionError("no vDSO in this process")


def vdso_image(pid: int | str) -> bytes:
    """Return the bytes of the [vdso] mapping."""
    start, length = vdso_mapping(pid)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(start)
        return memory.read(length)


@contextmanager
def executable(code: bytes) -> Iterator[int]:
    """Map code; yield its address."""
    with mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as area:
        area.write(code)
        buffer = ctypes.c_char.from_buffer(area)
        yield ctypes.addressof(buffer)
        del buffer


def function(address: int, *arguments: type) -> Callable[..., int]:
    """Return the C function at an address: it returns a long."""
    return ctypes.CFUNCTYPE(ctypes.c_long, *arguments)(address)


def near(value: float, expected: float) -> bool:
    """Return whether two readings, in seconds, were taken at about the same time."""
    return abs(value - expected) < 60


@pytest.mark.parametrize("offset_ns", OFFSETS_NS)
def test_clock_gettime_runs_natively(offset_ns: int) -> None:
    spec = Timespec()
    with executable(NATIVE.vdso_stubs.lower(ClockGettime(offset_ns))) as address:
        clock_gettime = function(address, ctypes.c_int, ctypes.c_void_p)
        for clock in (time.CLOCK_REALTIME, 5, time.CLOCK_TAI):
            before = time.clock_gettime_ns(clock)
            assert clock_gettime(clock, ctypes.addressof(spec)) == 0
            after = time.clock_gettime_ns(clock)
            assert before + offset_ns <= spec[0] * SECOND + spec[1] <= after + offset_ns
            assert 0 <= spec[1] < SECOND
        for clock in (time.CLOCK_MONOTONIC, 4, 6, time.CLOCK_BOOTTIME, time.CLOCK_PROCESS_CPUTIME_ID):
            before = time.clock_gettime_ns(clock)
            assert clock_gettime(clock, ctypes.addressof(spec)) == 0
            assert before <= spec[0] * SECOND + spec[1] <= time.clock_gettime_ns(clock)
        assert clock_gettime(time.CLOCK_REALTIME, 16) == -errno.EFAULT
        assert clock_gettime(99, ctypes.addressof(spec)) == -errno.EINVAL


@pytest.mark.parametrize("offset_ns", OFFSETS_NS)
def test_gettimeofday_runs_natively(offset_ns: int) -> None:
    value, zone = Timespec(), (ctypes.c_int32 * 4)(7, 7, 7, 7)
    with executable(NATIVE.vdso_stubs.lower(Gettimeofday(offset_ns))) as address:
        gettimeofday = function(address, ctypes.c_void_p, ctypes.c_void_p)
        before = time.time_ns() // 1000
        assert gettimeofday(ctypes.addressof(value), ctypes.addressof(zone)) == 0
        after = time.time_ns() // 1000
        assert before + offset_ns // 1000 <= value[0] * 1_000_000 + value[1] <= after + offset_ns // 1000
        assert 0 <= value[1] < 1_000_000
        assert list(zone)[2:] == [7, 7]
        assert gettimeofday(None, None) == 0
        assert gettimeofday(None, ctypes.addressof(zone)) == 0
        assert gettimeofday(16, None) == -errno.EFAULT


def test_forced_call_runs_natively() -> None:
    with executable(NATIVE.vdso_stubs.lower(ForceSyscall("getpid"))) as address:
        assert function(address)() == os.getpid()


def test_forced_getrandom_runs_natively() -> None:
    buffer, parameters = ctypes.create_string_buffer(64), ctypes.create_string_buffer(b"\x5a" * 128)
    arguments = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_void_p, ctypes.c_size_t)
    with executable(NATIVE.vdso_stubs.lower(ForceGetrandom())) as address:
        getrandom = function(address, *arguments)
        assert getrandom(buffer, 64, 0, None, 0) == 64
        assert buffer.raw != bytes(64)
        assert getrandom(None, 0, 0, parameters, NO_OPAQUE_STATE) == -errno.ENOSYS
        assert parameters.raw[:128] == b"\x5a" * 128


def operations(offset_ns: int) -> dict[str, StubOperation]:
    """Return replacements for every function of the native vDSO."""
    entries = NATIVE.vdso_stubs.ENTRIES
    return {**forced(entries), **shifted_time(entries, offset_ns)}


@pytest.mark.parametrize("offset_ns", OFFSETS_NS)
def test_patched_copy_of_the_real_vdso_works_elsewhere(offset_ns: int) -> None:
    image = vdso_image("self")
    patch = plan(NATIVE, image, operations(offset_ns))
    assert patch.writes
    symbols = read_image(image, NATIVE.elf_machine).symbols
    entries = NATIVE.vdso_stubs.ENTRIES
    spec = Timespec()
    with executable(patch.applied_to(image)) as base:
        at = {entry: base + symbols[name].offset for entry, name in entries.items() if entry not in patch.absent}
        assert function(at["clock_gettime"], ctypes.c_int, ctypes.c_void_p)(0, ctypes.addressof(spec)) == 0
        assert near(spec[0] + spec[1] / SECOND, time.time() + offset_ns / SECOND)
        assert function(at["gettimeofday"], ctypes.c_void_p, ctypes.c_void_p)(ctypes.addressof(spec), None) == 0
        assert near(spec[0] + spec[1] / 1e6, time.time() + offset_ns / SECOND)
        assert function(at["clock_getres"], ctypes.c_int, ctypes.c_void_p)(0, ctypes.addressof(spec)) == 0
        assert spec[0] * SECOND + spec[1] == round(time.clock_getres(time.CLOCK_REALTIME) * SECOND)
        if "time" in at:
            assert near(function(at["time"], ctypes.c_void_p)(None), time.time() + offset_ns / SECOND)
        if "getcpu" in at:
            cpu = ctypes.c_uint(1 << 30)
            getcpu = function(at["getcpu"], ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
            assert getcpu(ctypes.addressof(cpu), None, None) == 0
            assert cpu.value < os.sysconf("SC_NPROCESSORS_CONF")


def test_functions_shrunk_to_a_jump_work_in_a_copy_of_the_real_vdso() -> None:
    # The real functions are all large enough; with their symbols' sizes cut, the same image needs trampolines.
    image = bytearray(vdso_image("self"))
    offset_ns = -3 * SECOND
    symbols = read_image(bytes(image), NATIVE.elf_machine).symbols
    for offset in {symbols[name].offset for name in NATIVE.vdso_stubs.ENTRIES.values() if name in symbols}:
        needle = offset.to_bytes(8, "little")  # st_value, followed by st_size
        at = image.find(needle)
        while at >= 0:
            image[at + 8 : at + 16] = (8).to_bytes(8, "little")
            at = image.find(needle, at + 1)
    patch = plan(NATIVE, bytes(image), shifted_time(NATIVE.vdso_stubs.ENTRIES, offset_ns))
    slack = read_image(bytes(image), NATIVE.elf_machine).slack
    assert any(write.offset in slack for write in patch.writes)
    spec = Timespec()
    with executable(patch.applied_to(bytes(image))) as base:
        at = base + symbols[NATIVE.vdso_stubs.ENTRIES["clock_gettime"]].offset
        before = time.time_ns()
        assert function(at, ctypes.c_int, ctypes.c_void_p)(0, ctypes.addressof(spec)) == 0
        assert before + offset_ns <= spec[0] * SECOND + spec[1] <= time.time_ns() + offset_ns


CHILD = """
import ctypes, json, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.time.restype = ctypes.c_long
def read():
    pair, raw = (ctypes.c_int64 * 2)(), (ctypes.c_int64 * 2)()
    assert libc.gettimeofday(pair, None) == 0
    assert libc.syscall(CLOCK_GETTIME, 0, raw) == 0
    failed = libc.clock_gettime(99, pair.__class__())
    return {
        "time.time": time.time(), "gettimeofday": pair[0] + pair[1] / 1e6, "time": libc.time(None),
        "tai": time.clock_gettime(time.CLOCK_TAI), "coarse": time.clock_gettime(5),
        "monotonic": time.monotonic(), "boottime": time.clock_gettime(time.CLOCK_BOOTTIME),
        "raw system call": raw[0] + raw[1] / 1e9, "failed": [failed, ctypes.get_errno()],
        "resolution": time.clock_getres(0), "cpu": libc.sched_getcpu(), "random": os.getrandom(16).hex(),
    }
print(json.dumps(read()), flush=True)
while sys.stdin.readline():
    print(json.dumps(read()), flush=True)
""".replace("CLOCK_GETTIME", str(NATIVE.syscalls["clock_gettime"]))


def test_living_child_gets_the_shifted_time() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        untouched = json.loads(child.stdout.readline())
        assert near(untouched["time.time"], time.time())
        start, _ = vdso_mapping(child.pid)
        for offset_ns in (*OFFSETS_NS, 0):
            # The child waits in read(2): none of its threads is in the vDSO.
            patch = plan(NATIVE, vdso_image(child.pid), operations(offset_ns))
            with open(f"/proc/{child.pid}/mem", "r+b", buffering=0) as memory:
                for write in patch.writes:
                    memory.seek(start + write.offset)
                    assert memory.write(write.data) == len(write.data)
            child.stdin.write(b"again\n")
            child.stdin.flush()
            seen = json.loads(child.stdout.readline())
            now = time.time()
            for clock in ("time.time", "gettimeofday", "time", "coarse"):
                assert near(seen[clock], now + offset_ns / SECOND), clock
            assert near(seen["tai"], time.clock_gettime(time.CLOCK_TAI) + offset_ns / SECOND)
            assert near(seen["monotonic"], time.monotonic())
            assert near(seen["boottime"], time.clock_gettime(time.CLOCK_BOOTTIME))
            # The control: what the kernel itself says has not moved.
            assert near(seen["raw system call"], now)
            assert seen["failed"] == [-1, errno.EINVAL]
            assert seen["resolution"] == untouched["resolution"]
            assert seen["cpu"] in range(os.sysconf("SC_NPROCESSORS_CONF"))
            assert len(seen["random"]) == 32
        child.stdin.close()
        assert child.wait(10) == 0
