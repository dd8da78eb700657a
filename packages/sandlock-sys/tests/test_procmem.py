"""Memory of a child: all of it, or exactly as far as it goes."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandlock_sys import prctl, procmem
from sandlock_sys.errors import SyscallError
from sandlock_testkit.profiles import examples

PAGE = mmap.PAGESIZE
PAGES = 8
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
CONTENT = bytes(number * 7 % 251 for number in range(PAGE * PAGES))


@pytest.fixture(scope="module")
def area() -> int:
    """Eight pages of CONTENT with an unmapped page behind; the last one is read-only."""
    address = LIBC.mmap(None, PAGE * (PAGES + 1), 3, 0x22, -1, 0)
    ctypes.memmove(address, CONTENT, len(CONTENT))
    assert LIBC.munmap(address + PAGE * PAGES, PAGE) == 0
    assert LIBC.mprotect(address + PAGE * (PAGES - 1), PAGE, 1) == 0
    return int(address)


@pytest.fixture
def victim(area: int, sleeper: int) -> int:
    """A child forked with `area` in its memory."""
    assert procmem.read(sleeper, area, 16) == CONTENT[:16]
    return sleeper


@pytest.fixture(scope="module")
def lasting(area: int) -> Iterator[int]:
    """The same, for all examples of a property."""
    assert area
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    yield pid
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def test_a_read_returns_the_childs_bytes_not_ours(victim: int, area: int) -> None:
    ctypes.memset(area, 0xEE, 4)
    try:
        assert procmem.read(victim, area, 4) == CONTENT[:4]
    finally:
        ctypes.memmove(area, CONTENT[:4], 4)


def test_a_read_stops_exactly_at_the_unmapped_page(victim: int, area: int) -> None:
    memory = bytearray(PAGE * 3 + 5)
    ranges = [(area + PAGE * 7 - 5, 5), (area + PAGE * 7 + 100, PAGE * 3)]
    transfer = procmem.read_ranges(victim, ranges, memory)
    assert transfer == procmem.Transfer(5 + PAGE - 100, procmem.Stop(1, area + PAGE * 8, errno.EFAULT))
    assert memory[: transfer.done] == CONTENT[PAGE * 7 - 5 : PAGE * 7] + CONTENT[PAGE * 7 + 100 :]
    with pytest.raises(SyscallError) as caught:
        procmem.read(victim, area + PAGE * 7, PAGE + 1)
    assert (caught.value.call, caught.value.errno) == ("process_vm_readv", errno.EFAULT)
    assert f"{area + PAGE * 8:#x}" in caught.value.detail


def test_more_ranges_than_one_call_takes_are_all_moved(victim: int, area: int) -> None:
    ranges = [(area + number, 1) for number in range(5000)]
    memory = bytearray(5000)
    assert procmem.read_ranges(victim, ranges, memory) == procmem.Transfer(5000, None)
    assert memory == CONTENT[:5000]
    ranges[3000] = (area + PAGE * 8, 1)
    assert procmem.read_ranges(victim, ranges, memory).stop == procmem.Stop(3000, area + PAGE * 8, errno.EFAULT)


@settings(max_examples=examples(200), deadline=None)
@given(pieces=st.lists(st.tuples(st.integers(0, PAGE * (PAGES + 1) - 1), st.integers(0, 3 * PAGE)), max_size=20))
def test_any_list_of_ranges_is_read_up_to_the_first_bad_byte(
    lasting: int, area: int, pieces: list[tuple[int, int]]
) -> None:
    expected = b""
    stop = None
    for index, (start, length) in enumerate(pieces):
        good = CONTENT[start : start + length]
        expected += good
        if len(good) < length:
            stop = procmem.Stop(index, area + start + len(good), errno.EFAULT)
            break
    memory = bytearray(sum(length for _, length in pieces))
    transfer = procmem.read_ranges(lasting, [(area + start, length) for start, length in pieces], memory)
    assert transfer == procmem.Transfer(len(expected), stop)
    assert memory[: len(expected)] == expected


def test_a_write_arrives_and_stops_at_a_page_that_is_read_only(victim: int, area: int) -> None:
    procmem.write(victim, area + 10, b"written")
    assert procmem.read(victim, area + 9, 9) == CONTENT[9:10] + b"written" + CONTENT[17:18]
    transfer = procmem.write_ranges(victim, [(area + PAGE * 7 - 3, 10)], bytes(10))
    assert transfer == procmem.Transfer(3, procmem.Stop(0, area + PAGE * 7, errno.EFAULT))
    assert procmem.read(victim, area + PAGE * 7 - 3, 4) == bytes(3) + CONTENT[PAGE * 7 : PAGE * 7 + 1]
    with pytest.raises(SyscallError):
        procmem.write(victim, area + PAGE * 7, b"x")


def test_poke_writes_where_the_process_itself_may_not(victim: int, area: int) -> None:
    memory = procmem.open_memory(victim, write=True)
    procmem.poke(memory, area + PAGE * 7 + 1, b"poked")
    assert (
        procmem.peek(memory, area + PAGE * 7, 7)
        == CONTENT[PAGE * 7 : PAGE * 7 + 1] + b"poked" + CONTENT[PAGE * 7 + 6 : PAGE * 7 + 7]
    )
    with pytest.raises(SyscallError) as caught:
        procmem.peek(memory, area + PAGE * 8 - 1, 2)
    assert caught.value.errno == errno.EIO
    os.close(memory)


def test_a_string_ends_at_its_nul_and_may_touch_the_end_of_memory(victim: int, area: int) -> None:
    memory = procmem.open_memory(victim, write=True)
    procmem.poke(memory, area + PAGE * 8 - 6, b"last!\0")
    assert procmem.read_string(victim, area + PAGE * 8 - 6) == b"last!"
    assert procmem.read_string(victim, area + PAGE * 8 - 1) == b""
    procmem.poke(memory, area + PAGE * 8 - 6, b"no end")
    with pytest.raises(SyscallError) as caught:
        procmem.read_string(victim, area + PAGE * 8 - 6)
    assert caught.value.errno == errno.EFAULT
    procmem.poke(memory, area + PAGE * 7, b"a" * 100 + b"\0")
    assert procmem.read_string(victim, area + PAGE * 7, 101) == b"a" * 100
    with pytest.raises(SyscallError) as caught:
        procmem.read_string(victim, area + PAGE * 7, 100)
    assert caught.value.errno == errno.ENAMETOOLONG
    os.close(memory)


def test_nothing_to_move_is_fine(victim: int, area: int) -> None:
    assert procmem.read_ranges(victim, [], bytearray()) == procmem.Transfer(0, None)
    assert procmem.read_ranges(victim, [(area, 0), (1, 0)], bytearray()) == procmem.Transfer(0, None)
    assert procmem.read(victim, area, 0) == b""


@pytest.mark.parametrize("ranges", [[(0, 17)], [(-1, 1)], [(0, -1)], [((1 << 64) - 1, 2)], [(0, 9), (0, 8)]])
def test_ranges_that_do_not_fit_are_refused_before_the_kernel_sees_them(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"bytes|range"):
        procmem.read_ranges(os.getpid(), ranges, bytearray(16))
    with pytest.raises(ValueError, match=r"bytes|range"):
        procmem.write_ranges(os.getpid(), ranges, bytes(16))


def test_a_read_only_buffer_is_refused(victim: int, area: int) -> None:
    with pytest.raises(BufferError):
        procmem.read_ranges(victim, [(area, 1)], memoryview(b"x"))


def test_a_dead_or_forbidden_process_is_refused(child: Any, area: int, in_child: Any) -> None:
    with child(lambda: None) as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(SyscallError) as caught:
            procmem.read(pid, area, 1)
        assert caught.value.errno == errno.ESRCH

    def body() -> int:
        prctl.set_capabilities(0, 0, 0)
        return procmem.read_ranges(1, [(area, 1)], bytearray(1)).stop.errno  # type: ignore[union-attr]

    assert in_child(body) == errno.EPERM
