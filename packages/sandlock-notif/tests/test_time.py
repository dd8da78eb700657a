"""INF-07, INF-09, SEC-16: the wall clock starts where it is told to, by every way to ask, and waits end in time."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import PYTHON, Outcome, supervise

from sandlock_notif.deadlines import decide_deadline
from sandlock_notif.handlers.exec import ExecTable
from sandlock_notif.handlers.time import TimeTable

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("pidfd", level=2),
    pytest.mark.needs("ptrace"),
    pytest.mark.needs("compiler"),
    pytest.mark.usefixtures("leaks"),
]

SECOND = 1_000_000_000
PAST = 946_684_800  # 2000-01-01
FUTURE = 4_102_444_800  # 2100-01-01
Compile = Callable[..., Path]


@pytest.fixture
def program(compile_c: Compile) -> str:
    return str(compile_c(Path(__file__).with_name("telling.c").read_text(), "-pthread", "-w", "-lrt"))


def run(*argv: str, start: int = PAST) -> Outcome:
    table = TimeTable(start * SECOND)
    return supervise(argv, table, ExecTable([table]))


@pytest.mark.parametrize("start", [PAST, FUTURE])
def test_inf_07_every_way_to_ask_gives_the_same_clock(program: str, start: int) -> None:
    real = supervise([program, "tell"]).output
    assert {abs(int(n) - time.time()) < 60 for n in re.findall(rb" (\d+)", real)} == {True}
    outcome = run(program, "tell", start=start)
    assert outcome.code == 0
    told = dict(re.findall(rb"(\w+) (-?\d+)\n", outcome.output))
    assert len(re.findall(rb"\n", outcome.output)) == len(re.findall(rb"\n", real))
    for name, seconds in re.findall(rb"(\w+) (-?\d+)\n", outcome.output):
        assert start <= int(seconds) < start + 60, name  # TAI may be 37 s ahead
    assert told


def test_inf_09_a_new_image_has_the_clock_from_its_first_instruction() -> None:
    script = "date +%Y; /bin/sh -c 'exec /bin/sh -c \"date +%Y\"'; (exec date +%Y) | cat; date +%Y & wait"
    assert run("/bin/sh", "-c", script.replace("date", "date -u")).output == b"2000\n" * 4


def test_python_sees_one_clock_that_runs() -> None:
    code = """
import time, datetime, threading, subprocess
begin, steady = time.time(), time.monotonic()
time.sleep(0.05); threading.Event().wait(0.05)
assert not threading.Lock().acquire() or True
assert 0.1 <= time.time() - begin < 1, time.time() - begin
assert abs((time.time() - begin) - (time.monotonic() - steady)) < 0.01
years = time.gmtime().tm_year, datetime.datetime.now(datetime.timezone.utc).year
print(*years, time.time_ns() // 10**9 == int(time.time()), flush=True)
subprocess.run(["date", "-u", "+%Y"])
"""
    outcome = run(PYTHON, "-I", "-c", code)
    assert (outcome.code, outcome.output) == (0, b"2000 2000 True\n2000\n")


@pytest.mark.parametrize("start", [PAST, FUTURE])
@pytest.mark.parametrize(
    ("how", "result"),
    [
        ("nanosleep", 0),
        ("tai", 0),
        ("sem", errno.ETIMEDOUT),
        ("cond", errno.ETIMEDOUT),
        ("bitset", errno.ETIMEDOUT),
        ("mq", errno.ETIMEDOUT),
        ("timerfd", 0),
        ("monotonicfd", 0),
        ("timer", 0),
        ("signal", errno.EINTR),
    ],
)
def test_inf_07_an_absolute_wait_ends_in_time_and_leaves_its_structure_alone(
    program: str, start: int, how: str, result: int
) -> None:
    outcome = run(program, how, start=start)
    # In tenths of a second: not before its time, and not much later even on a loaded machine.
    assert re.fullmatch(rb"%d [1-9] 1\n" % result, outcome.output), outcome.output


def test_what_the_kernel_refuses_is_refused(program: str) -> None:
    assert run(program, "bad").output == b"22 22 14\n"


def test_many_programs_have_the_clock(program: str) -> None:
    script = "i=0; while [ $i -lt 40 ]; do [ $(date -u +%Y) = 2000 ] || echo wrong; i=$((i+1)); done; echo end"
    assert run("/bin/sh", "-c", script).output == b"end\n"


@given(st.integers(0, 1 << 62), st.integers(0, SECOND - 1), st.integers(-(1 << 62), 1 << 62))
def test_a_deadline_is_turned_back_by_the_offset(seconds: int, fraction: int, offset_ns: int) -> None:
    real = decide_deadline(seconds.to_bytes(8, "little") + fraction.to_bytes(8, "little"), offset_ns)
    assert real is not None
    at = int.from_bytes(real[:8], "little") * SECOND + int.from_bytes(real[8:], "little")
    wanted = seconds * SECOND + fraction - offset_ns
    assert at == max(wanted, 0) or at // SECOND == (1 << 63) // SECOND - 1


def test_a_deadline_that_is_none_stays_as_it_is() -> None:
    assert decide_deadline((1 << 63).to_bytes(8, "little") + bytes(8), 0) is None
    assert decide_deadline(bytes(8) + SECOND.to_bytes(8, "little"), 0) is None
