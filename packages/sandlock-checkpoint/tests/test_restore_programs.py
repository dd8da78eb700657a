"""Programs of many kinds are captured, killed and restored, and go on from where they were."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from process_lab import Lab, build

from sandlock_checkpoint import Leave, RestoreError, capture, load, restore

pytestmark = pytest.mark.needs("ptrace")


def check_count(lines: list[str], last: int) -> None:
    """Every number once, in order, and one token all along."""
    numbers = [int(line.split()[0]) for line in lines]
    assert numbers == list(range(numbers[0], last + 1))
    assert len({line.split()[1] for line in lines}) == 1


@pytest.mark.parametrize("flags", [(), ("-static",), ("-static-pie",), ("-no-pie",)], ids=" ".join)
def test_a_c_program_counts_on(lab: Lab, programs: Path, flags: tuple[str, ...]) -> None:
    running = lab.start([build(programs, "counter", *flags)])
    running.wait_for("\n5 ")
    restored = lab.cycle(running)
    assert lab.finish(restored) == 7
    check_count(running.lines(), 39)


GENERATOR = """
import collections, json, re, secrets, struct, time, zlib
token = secrets.token_hex(8)
def numbers():
    number = 0
    while True:
        yield number
        number += 1
source = numbers()
kept = []
for number in source:
    kept.append([number] * 1000)
    print(number, token, len(kept))
    time.sleep(0.01)
    if number == 60:
        break
assert [row[0] for row in kept] == list(range(61))
"""


def test_an_interpreter_with_a_live_generator_goes_on(lab: Lab) -> None:
    running = lab.python(GENERATOR)
    running.wait_for("\n20 ")
    restored = lab.cycle(running)
    assert lab.finish(restored) == 0
    check_count(running.lines(), 60)


EXTENSIONS = """
import ctypes, decimal, hashlib, secrets, sqlite3, ssl, sys, time, xml.parsers.expat
token = secrets.token_hex(8)
disk, memory = sqlite3.connect(sys.argv[1]), sqlite3.connect(":memory:")
for base in (disk, memory):
    base.execute("create table counted (number integer, token text)")
digest = hashlib.sha256()
for number in range(60):
    digest.update(b"%d" % number)
    for base in (disk, memory):
        base.execute("insert into counted values (?, ?)", (number, token))
        base.commit()
    print(number, token)
    time.sleep(0.01)
for base in (disk, memory):
    assert base.execute("select count(*), sum(number), count(distinct token) from counted").fetchone() == (60, 1770, 1)
assert digest.hexdigest() == hashlib.sha256(b"".join(b"%d" % number for number in range(60))).hexdigest()
assert ssl.create_default_context().cert_store_stats() is not None
"""


def test_databases_and_c_extensions_go_on(lab: Lab) -> None:
    running = lab.python(EXTENSIONS, str(lab.folder / "base"))
    running.wait_for("\n20 ")
    restored = lab.cycle(running)
    assert lab.finish(restored) == 0, running.text()
    check_count(running.lines(), 59)


NUMPY = """
import secrets, sys, time
import numpy
token = secrets.token_hex(8)
random = numpy.random.default_rng(4711)
matrix, kept = numpy.eye(64), []
def step():
    global matrix
    matrix = matrix @ (numpy.eye(64) + random.standard_normal((64, 64)) / 100)  # the threads of the BLAS
    kept.append(random.integers(0, 1 << 60, 1000))
for number in range(40):
    step()
    print(number, token)
    time.sleep(0.01)
found = matrix.tobytes(), numpy.stack(kept).tobytes()
random = numpy.random.default_rng(4711)
matrix, kept = numpy.eye(64), []
for _ in range(40):
    step()
assert found == (matrix.tobytes(), numpy.stack(kept).tobytes())
assert numpy.linalg.norm(numpy.linalg.inv(matrix) @ matrix - numpy.eye(64)) < 1e-6
"""


def test_arrays_and_their_threads_go_on(lab: Lab) -> None:
    """Half of the numbers are drawn before and half after: the same to the bit as those drawn in one go."""
    running = lab.python(NUMPY)
    running.wait_for("\n15 ")
    restored = lab.cycle(running)
    assert lab.finish(restored) == 0, running.text()
    check_count(running.lines(), 39)


THREADS = """
import secrets, threading, time
lock, rlock, condition, event = threading.Lock(), threading.RLock(), threading.Condition(), threading.Event()
counted, turn = [0], [0]
def work(number):
    for _ in range(30):
        with lock:
            counted[0] += 1
        with rlock, rlock:
            time.sleep(0.002)
        with condition:
            while turn[0] % 8 != number:
                condition.wait()
            turn[0] += 1
            condition.notify_all()
            if turn[0] == 40:
                print("running", flush=True)
waiter = threading.Thread(target=lambda: event.wait(60))
waiter.start()
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
event.set()
waiter.join()
print("done", counted[0], turn[0], flush=True)
"""


def test_eight_threads_with_locks_and_conditions_go_on(lab: Lab) -> None:
    running = lab.python(THREADS)
    running.wait_for("running")
    restored = lab.cycle(running)
    assert len(os.listdir(f"/proc/{restored.pid}/task")) == 10
    assert lab.finish(restored) == 0
    assert running.lines()[-1] == "done 240 240"


ASYNCIO = """
import asyncio, os, socket
async def main():
    left, right = socket.socketpair()
    for end in (left, right):
        end.setblocking(False)
    loop = asyncio.get_running_loop()
    async def echo():
        while data := await loop.sock_recv(right, 100):
            await loop.sock_sendall(right, data.upper())
    task = asyncio.create_task(echo())
    ticks = []
    async def tick():
        while True:
            await asyncio.sleep(0.05)
            ticks.append(loop.time())
    ticker = asyncio.create_task(tick())
    for number in range(20):
        await loop.sock_sendall(left, b"n%d" % number)
        print((await loop.sock_recv(left, 100)).decode(), flush=True)
        await asyncio.sleep(0.03)
    assert len(ticks) > 5
    left.close()
    await task
    ticker.cancel()
asyncio.run(main())
print("over", flush=True)
"""


def test_asyncio_with_timers_and_a_socketpair_goes_on(lab: Lab) -> None:
    running = lab.python(ASYNCIO)
    running.wait_for("N5\n")
    restored = lab.cycle(running)
    assert lab.finish(restored) == 0
    assert running.lines() == [*(f"N{number}" for number in range(20)), "over"]


def test_vector_registers_keep_their_contents(lab: Lab, programs: Path) -> None:
    flags = ("-O2", "-mavx2") if "avx2" in Path("/proc/cpuinfo").read_text() else ("-O2",)
    running = lab.start([build(programs, "vectors", *flags)])
    running.wait_for("round 200\n")
    for _ in range(3):
        with lab.take(running) as checkpoint:
            restored = lab.restore(checkpoint)
        running.process.pid = restored.pid  # captured again below, as a child of ours that runs
        running.process.returncode = None
    assert lab.finish(restored) == 0
    assert running.lines()[-1] == "right"


def test_an_interactive_interpreter_keeps_its_session(lab: Lab) -> None:
    """Its streams lead outside, so they are taken on by name, and replaced at the restore."""
    process = subprocess.Popen(
        [sys.executable, "-i", "-q", "-u"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"import random; secret = random.random(); print('value', secret)\n")
    process.stdin.flush()
    line = process.stdout.readline()
    image = lab.folder / "session"
    with capture(process.pid, allow={"pipe"}, leave=Leave.KILLED) as checkpoint:
        checkpoint.save(image)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    here, there = os.pipe(), os.pipe()
    with load(image) as checkpoint:
        with pytest.raises(RestoreError, match="fd:0"):
            restore(checkpoint)
        restored = lab.restore(checkpoint, descriptors={0: here[0], 1: there[1], 2: there[1]})
    os.close(here[0])
    os.close(there[1])
    os.write(here[1], b"print('value', secret)\n")
    answer = b""
    while b"\n" not in answer:
        answer += os.read(there[0], 1000)
    assert answer.partition(b"\n")[0].removeprefix(b">>> ") == line.strip().removeprefix(b">>> ")
    os.close(here[1])
    assert lab.finish(restored) == 0
    os.close(there[0])
