"""INF-08: one seed, one stream, by every door that this covers; and no more than a key that is known."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import PYTHON, Outcome, supervise

from sandlock_arch import native
from sandlock_notif.chacha import Stream, blocks
from sandlock_notif.content.identifiers import uuid_line
from sandlock_notif.handlers.exec import ExecTable
from sandlock_notif.handlers.processes import ProcessLimit
from sandlock_notif.handlers.random import RandomTable, decide_getrandom, key_of
from sandlock_notif.handlers.signals import ChildSignals
from sandlock_notif.handlers.time import TimeTable
from sandlock_policy.seccomp.rules import ABSENT, Rule

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("pidfd", level=2),
    pytest.mark.needs("ptrace"),
    pytest.mark.usefixtures("leaks"),
]

Compile = Callable[..., Path]
DOORS = Path(__file__).with_name("doors.c").read_text()
REPEATED = """
import os, random, hashlib, time, uuid, subprocess, sys, tempfile
print(time.strftime("%F %T", time.gmtime()), os.urandom(8).hex(), hash("x"), random.random(), uuid.uuid4())
print(hashlib.sha256(open("/dev/urandom", "rb").read(200_000)).hexdigest(), open("/proc/sys/kernel/random/uuid").read())
print(os.getrandom(100_000)[-8:].hex(), sorted({"a", "b", "c"}), list({"x", "y", "z"}), flush=True)
subprocess.run([sys.executable, "-I", "-c", "import os; print(os.urandom(8).hex(), list({'x', 'y', 'z'}), hash('y'))"])
"""
SECOND = 1_000_000_000
CLONE3 = Rule("clone3", (), ABSENT, "as in the default filter")


def run(*argv: str, seed: int = 7) -> Outcome:
    table = RandomTable(seed)
    return supervise(argv, table, ExecTable([table]))


@pytest.fixture
def doors(compile_c: Compile) -> str:
    return str(compile_c(DOORS, "-w"))


@pytest.mark.needs("compiler")
def test_inf_08_every_door_gives_bytes_of_the_seed(doors: str) -> None:
    outcome = run(doors)
    told = dict(re.findall(rb"(\w+) ([0-9a-f]{32})\n", outcome.output))
    assert len(told) == 13, outcome.output
    assert len(set(told.values())) == 13
    stream = Stream(key_of(7)).take(1024).hex().encode()  # libc takes some for itself between
    assert all(told[name] in stream for name in (b"libc", b"call", b"entropy"))
    assert told[b"auxv"].decode() == Stream(key_of(7), 1 << 64).take(16).hex()
    assert told[b"urandom"].decode() == Stream(key_of(7), 2).take(16).hex()
    assert bytes.fromhex(told[b"boot"].decode()) == uuid_line(Stream(key_of(7), 1).take(16))[:16]
    assert outcome.output.endswith(b"bad -1 22 -1 22 -1 14 0 0\n")
    assert run(doors).output == outcome.output
    assert not set(re.findall(rb"[0-9a-f]{32}", run(doors, seed=8).output)) & set(told.values())
    assert not set(re.findall(rb"[0-9a-f]{32}", supervise([doors]).output)) & set(told.values())


def test_two_runs_of_a_program_are_identical() -> None:
    def once(seed: int) -> bytes:
        clock, random = TimeTable(946_684_800 * SECOND), RandomTable(seed)
        tables = (ChildSignals(), ProcessLimit(9), clock, random, ExecTable([clock, random]))
        outcome = supervise([PYTHON, "-I", "-c", REPEATED], *tables, rules=[CLONE3])
        assert outcome.code == 0
        return outcome.output

    first = once(1)
    assert first.startswith(b"2000-01-01 00:00:0")
    assert first.count(b"\n") >= 5
    assert once(1) == first
    assert once(2) != first
    bare = supervise([PYTHON, "-I", "-c", REPEATED]).output
    assert bare != supervise([PYTHON, "-I", "-c", REPEATED]).output


def test_a_device_never_ends_and_many_may_be_open() -> None:
    code = """
import os
fds = [os.open("/dev/urandom", os.O_RDONLY) for _ in range(20)]
assert len({os.read(fd, 32) for fd in fds}) == 20
for fd in fds: os.close(fd)
for _ in range(300): os.close(os.open("/dev/urandom", os.O_RDONLY | os.O_NONBLOCK))
with open("/dev/urandom", "rb") as f: print(len(f.read(1_500_000)))
print(len(os.getrandom(1_000_000)), len(os.urandom(300_000)))
"""
    assert run(PYTHON, "-I", "-S", "-c", code).output == b"1500000\n1000000 300000\n"
    assert run("/bin/sh", "-c", "head -c 100000 /dev/urandom | wc -c").output == b"100000\n"


def test_other_files_of_these_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "urandom").write_text("mine\n")
    (tmp_path / "uuid").write_text("mine too\n")
    for path in (tmp_path, *list(tmp_path.parents)[:-2]):
        path.chmod(0o755)
    outcome = run("/bin/sh", "-c", f"cd {tmp_path}; cat urandom uuid; cat ./random; echo x > /dev/urandom; echo $?")
    assert outcome.output == b"mine\nmine too\n0\n"


@pytest.mark.skipif("getrandom" not in native().vdso_stubs.ENTRIES, reason="its vDSO has no getrandom")
def test_inf_08_the_vdso_has_no_stream_of_its_own() -> None:
    table = RandomTable(1)

    class Loaded:
        arch = native()

    table._services = Loaded()  # type: ignore[assignment]
    assert set(table.stubs()) == {"getrandom"}


def test_the_stream_is_that_of_rfc_8439() -> None:
    key = bytes(range(32))
    assert blocks(key, 1, bytes.fromhex("000000090000004a00000000"), 1).hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )  # 2.3.2
    assert blocks(bytes(32), 0, bytes(12), 1).hex().startswith("76b8e0ada0f13d90405d6ae55386bd28")  # A.1, vector 1
    assert blocks(bytes(32), 1, bytes(12), 1).hex().startswith("9f07e7be5551387a98ba977c732d080d")  # A.1, vector 2
    assert blocks(bytes(31) + b"\1", 1, bytes(12), 1).hex().startswith("3aeb5224ecf849929b9d828db1ced4dd")  # vector 3
    assert blocks(b"\0\xff" + bytes(30), 2, bytes(12), 1).hex().startswith("72d54dfbf12ec44b362692df94137f32")  # 4
    assert blocks(bytes(32), 0, bytes(11) + b"\2", 1).hex().startswith("c2c64d378cd536374ae204b9ef933fcd")  # vector 5


@given(st.lists(st.integers(0, 9000), max_size=8), st.integers(0, 1 << 40))
def test_a_stream_is_the_same_however_it_is_taken(sizes: list[int], number: int) -> None:
    parts, whole = Stream(bytes(32), number), Stream(bytes(32), number)
    assert b"".join(parts.take(size) for size in sizes) == whole.take(sum(sizes))


@given(st.integers(0, (1 << 32) - 70), st.integers(1, 70))
def test_blocks_are_the_same_one_by_one(counter: int, count: int) -> None:
    together = blocks(bytes(32), counter, bytes(12), count)
    assert together[-64:] == blocks(bytes(32), counter + count - 1, bytes(12), 1)


def test_a_stream_goes_on_with_another_nonce_after_its_last_block() -> None:
    stream = Stream(bytes(32), 5)
    stream._counter = (1 << 32) - 1
    data = stream.take(128)
    assert data[64:] == blocks(bytes(32), 0, (5 + (1 << 64)).to_bytes(12, "little"), 1)


@pytest.mark.parametrize("bad", [(bytes(31), 0, bytes(12)), (bytes(32), 0, bytes(8)), (bytes(32), 1 << 32, bytes(12))])
def test_another_size_of_key_nonce_or_counter_is_refused(bad: tuple[bytes, int, bytes]) -> None:
    with pytest.raises(ValueError, match="a key of"):
        blocks(*bad, 1)


@given(st.integers(0, 1 << 64), st.integers(0, 1 << 32))
def test_flags_are_refused_as_the_kernel_does(size: int, flags: int) -> None:
    allowed = decide_getrandom(size, flags)
    assert (allowed is None) == (flags not in {0, 1, 2, 3, 4, 5})
    assert allowed is None or allowed <= size


@given(st.binary(min_size=16, max_size=16))
def test_a_uuid_is_of_version_4(data: bytes) -> None:
    assert re.fullmatch(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\n", uuid_line(data))
