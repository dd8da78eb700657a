"""sched_getaffinity shows as many processors as the policy says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import PYTHON, supervise

from sandlock_notif.handlers.processors import ProcessorsTable, decide_get, decide_set

CODE = """
import os
print(len(os.sched_getaffinity(0)), sorted(os.sched_getaffinity(0))[-1])
os.sched_setaffinity(0, {0}); print("set")
try: os.sched_setaffinity(0, {900})
except OSError as e: print(e.errno)
"""


@pytest.mark.needs("seccomp", level=2)
@pytest.mark.parametrize("count", [1, 3, 64, 200])
def test_the_program_counts_what_it_is_shown_and_may_pin_itself(count: int) -> None:
    out = supervise([PYTHON, "-I", "-S", "-c", CODE], ProcessorsTable(count)).output.decode().split("\n")
    assert out[:3] == [f"{count} {count - 1}", "set", "22"]


@pytest.mark.needs("seccomp", level=2)
def test_not_09_a_bad_pointer_is_efault() -> None:
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for address in (0, 1, 0xffff800000000000):
    libc.syscall(204 if __import__("os").uname().machine == "x86_64" else 123, 0, 128, ctypes.c_void_p(address))
    print(ctypes.get_errno())
"""
    assert supervise([PYTHON, "-I", "-S", "-c", code], ProcessorsTable(2)).output == b"14\n14\n14\n"


@given(st.integers(1, 4096), st.integers(0, 2048))
def test_a_mask_is_whole_words_and_fits(count: int, length: int) -> None:
    mask = decide_get(count, length)
    if mask is None:
        assert length * 8 < count or length % 8
    else:
        assert len(mask) <= length
        assert len(mask) % 8 == 0
        assert int.from_bytes(mask, "little").bit_count() == count
        assert decide_set(count, mask)
