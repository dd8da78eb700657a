"""max_memory ends what grows, in every way to grow (PR-08, W-66), and nothing else."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import PYTHON, Outcome, supervise, table

from sandlock_notif import Value, processes, usage
from sandlock_notif.handlers.memory import MemoryLimit, decide_extents
from sandlock_notif.memory_pace import data_limit, decide_offender, decide_period
from sandlock_notif.request import Request
from sandlock_notif.usage import Use

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("pidfd", level=2),
    pytest.mark.needs("compiler"),
    pytest.mark.usefixtures("leaks"),
]

MIB = 1 << 20
SOURCE = Path(__file__).with_name("memory_growth.c").read_text()
Compile = Callable[..., Path]


@pytest.fixture
def program(compile_c: Compile) -> str:
    return str(compile_c(SOURCE, "-w", "-O0"))


@pytest.fixture
def in_memory() -> Iterator[str]:
    folder = tempfile.mkdtemp(dir="/dev/shm")
    yield folder
    shutil.rmtree(folder)


def run(program: str, *words: str, limit: int = 64, folders: tuple[str, ...] = ()) -> Outcome:
    return supervise([program, *words], MemoryLimit(limit * MIB, folders))


def kills(outcome: Outcome) -> int:
    return sum(event.kind == "limit" and event.reason == "memory" for event in outcome.events)


def test_a_lowered_limit_binds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandlock_notif.handlers.memory.decide_period", lambda *_: 3600.0)  # no look is due any more
    limit = MemoryLimit(1024 * MIB)

    def lower(_: Request) -> Value:
        limit.controls()["restrict_max_memory"](60 * MIB)
        return Value(0)

    code = "import os, time; kept = bytearray(b'x' * (100 << 20)); os.getppid(); time.sleep(60)"
    outcome = supervise([PYTHON, "-c", code], table("getppid", lower), limit)
    assert (outcome.code, kills(outcome)) == (-signal.SIGKILL, 1)


WAYS = "map small populate noreserve brk huge mremap file memfd hidden leaderless flight zero tables".split()


@pytest.mark.parametrize("way", WAYS)
def test_pr_08_what_grows_above_the_limit_is_killed(program: str, way: str) -> None:
    outcome = run(program, way, "300", "stay")
    assert (outcome.code, outcome.output) == (-signal.SIGKILL, b"")
    assert kills(outcome) == 1
    [event] = outcome.events
    assert event.detail["limit"] == 64 * MIB
    # The same below the limit runs, and is not slowed by anything that it would notice.
    assert run(program, way, "16", limit=128).output == b"done\n"


def test_pr_08_a_deep_stack_counts(program: str) -> None:
    outcome = run(program, "stack", "7", limit=5)
    assert (outcome.code, kills(outcome)) == (-signal.SIGKILL, 1)
    assert run(program, "stack", "7", limit=32).output == b"done\n"


@pytest.mark.parametrize("way", ["forks", "copies"])
def test_w_66_many_small_ones_are_one_large_one(program: str, way: str) -> None:
    outcome = run(program, way, "160")
    assert outcome.output == b"child 9\n"
    assert kills(outcome) >= 1


def test_pages_that_forks_share_count_once(program: str) -> None:
    assert run(program, "sharing", "40").output == b"done\n"


def test_the_child_of_vfork_has_no_memory_of_its_own(program: str) -> None:
    outcome = run(program, "spawning", "40")
    assert (outcome.output, outcome.events) == (b"done\n", [])


def test_pr_08_shared_memory_counts_by_its_size(program: str) -> None:
    assert run(program, "shared", "400").output == b"%d\n" % errno.ENOMEM
    assert run(program, "shared", "400", limit=512).output == b"done\n"


def test_pr_08_one_call_cannot_fill_a_memfd_beyond_the_limit(program: str) -> None:
    outcome = run(program, "fallocate", "400")
    assert outcome.code == 3  # ENOSPC
    assert run(program, "fallocate", "16", limit=128).output == b"done\n"


def test_what_was_unmapped_and_closed_counts_no_longer(program: str) -> None:
    for way, size in (("again", "40"), ("memfds", "1")):
        outcome = run(program, way, size)
        assert (outcome.output, outcome.code, outcome.events) == (b"done\n", 0, [])


def test_pr_08_a_part_of_shared_memory_keeps_all_of_it(program: str) -> None:
    assert run(program, "tails", "200", limit=60).output == b"%d\n" % errno.ENOMEM
    assert run(program, "tails", "200", limit=256).output == b"done\n"


def test_pr_08_many_empty_files_count(program: str, in_memory: str) -> None:
    target = os.path.join(in_memory, "file")
    outcome = run(program, "inodes", "40", target, limit=16, folders=(in_memory,))
    assert (outcome.code, kills(outcome) > 0) == (-signal.SIGKILL, True)
    assert run(program, "inodes", "2", target + "2", limit=64, folders=(in_memory,)).output == b"done\n"


@pytest.mark.parametrize("failure", [errno.EMFILE, errno.EPERM])
def test_pr_08_what_cannot_be_measured_ends(program: str, failure: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(pid: int) -> int:
        raise OSError(failure, os.strerror(failure))

    assert run(program, "flight", "1").output == b"done\n"
    monkeypatch.setattr(usage, "anonymous", unreadable)
    outcome = run(program, "flight", "1")
    assert (outcome.code, outcome.output) == (-signal.SIGKILL, b"")
    assert {event.reason for event in outcome.events} == {"memory: cannot be measured"}


def test_who_has_no_pidfd_is_killed_by_one_opened_then(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_open_pidfd", lambda _pid: -1)
    outcome = run(program, "map", "300")
    assert (outcome.code, kills(outcome)) == (-signal.SIGKILL, 1)


def test_shared_memory_has_the_largest_size_that_was_known() -> None:
    one, two = (1, 1), (1, 2)
    assert decide_extents({one: 9}, {one: 1}, [], {one: 1}, complete=True) == {one: 9}
    assert decide_extents({one: 9}, {}, [], {}, complete=True) == {}
    assert decide_extents({one: 9}, {}, [], {}, complete=False) == {one: 9}
    assert decide_extents({}, {one: 1, two: 3}, [4, 8, 2], {one: 1, two: 3}, complete=True) == {one: 4, two: 8}
    assert decide_extents({}, {one: 5}, [], {one: 5}, complete=True) == {one: 5}


@pytest.mark.parametrize("way", ["tmpfs", "unlinked", "nameless"])
def test_w_66_files_in_memory_count(program: str, way: str, in_memory: str) -> None:
    outcome = run(program, way, "200", os.path.join(in_memory, "file"), folders=(in_memory,))
    assert (outcome.code, kills(outcome)) == (-signal.SIGKILL, 1)


def test_pr_08_the_grower_is_killed_and_the_bystander_lives(program: str) -> None:
    assert run(program, "bystander", "100").output == b"grower 9 0\n"


def test_a_memfd_of_ours_is_like_the_kernels() -> None:
    code = """
import os, fcntl
fd = os.memfd_create("name", os.MFD_ALLOW_SEALING)
print(os.readlink(f"/proc/self/fd/{fd}"), fcntl.fcntl(fd, fcntl.F_GETFD), fcntl.fcntl(fd, 1034), os.fstat(fd).st_mode)
fd = os.memfd_create("other")
print(os.readlink(f"/proc/self/fd/{fd}"), fcntl.fcntl(fd, fcntl.F_GETFD), fcntl.fcntl(fd, 1034))
try: os.memfd_create("x" * 250)
except OSError as e: print(e.errno)
try: os.memfd_create("x", 0x4000)
except OSError as e: print(e.errno)
"""
    bare = supervise([PYTHON, "-I", "-S", "-c", code])
    assert bare.output.count(b"22") == 2
    assert supervise([PYTHON, "-I", "-S", "-c", code], MemoryLimit(512 * MIB)).output == bare.output


USES = st.lists(st.builds(Use, st.integers(1, 99), st.integers(0, 1 << 34), st.integers(0, 1 << 34)), max_size=9)


@given(USES, st.integers(0, 99))
def test_the_offender_is_who_grew_most_else_the_owner_else_the_largest(uses: list[Use], owner: int) -> None:
    pid = decide_offender(uses, owner)
    if not uses:
        assert pid is None
    elif max(use.growth for use in uses) >= MIB:
        assert pid in {use.pid for use in uses if use.growth == max(use.growth for use in uses)}
    elif owner in {use.pid for use in uses}:
        assert pid == owner
    else:
        assert pid in {use.pid for use in uses if use.now == max(use.now for use in uses)}


@given(st.integers(-(1 << 40), 1 << 40), st.floats(0, 10))
def test_sampling_is_frequent_near_the_limit_and_never_takes_more_than_its_share(distance: int, cost_s: float) -> None:
    period = decide_period(distance, cost_s)
    assert period >= cost_s * 100
    assert period >= 0.001
    assert period <= max(0.1, cost_s * 100)
    assert decide_period(0, 0) == 0.001


def test_the_rlimit_is_above_the_limit_and_bounded() -> None:
    assert data_limit(64 * MIB) == 64 * MIB + (1 << 30)
    assert data_limit(8 << 30) == 16 << 30
