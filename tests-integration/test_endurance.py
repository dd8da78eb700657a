"""A thousand in a row, fifty at once: nothing grows, nothing mixes. Bounded in count, a few seconds each."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attack_lab import Box, alive_with, reason_of

if TYPE_CHECKING:
    from sandlock_testkit.tree import Tree

SYSTEM = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"]


def resident_kib() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * (os.sysconf("SC_PAGE_SIZE") // 1024)


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("\n")


def test_a_thousand_sandboxes_in_a_row_leave_nothing(box: Box, leaks: object) -> None:
    for _ in range(50):  # arenas, caches and lazily loaded parts settle
        assert box.inside("/bin/true", fs_readable=SYSTEM).success
    before = resident_kib(), mappings(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    for _ in range(1000):
        assert box.inside("/bin/true", fs_readable=SYSTEM).success
    after = resident_kib(), mappings(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    assert after[2:] == before[2:]
    assert after[1] <= before[1] + 5
    assert after[0] <= before[0] + 2048


def test_failed_starts_leave_nothing_either(box: Box, leaks: object) -> None:
    from sandlock import SandlockError

    before = mappings(), len(os.listdir("/proc/self/fd"))
    for number in range(300):
        with pytest.raises(SandlockError), box.sandbox() as sandbox:
            sandbox.run(["/no/such/program" if number % 2 else "/etc/passwd"])
    assert len(os.listdir("/proc/self/fd")) == before[1]
    assert mappings() <= before[0] + 5


HOSTILE = r"""
import os
home = os.environ["TMPDIR"]
os.chdir(home)
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
os.chdir(home)
os.symlink(os.environ["OUTSIDE"], "link")
os.mkfifo("fifo")
os.makedirs(b"\xff\n/x")
os.makedirs(".sandlock-removing-1-1/x")
os.makedirs("locked/x")
try:
    os.chmod("locked", 0)
except OSError:
    pass  # without namespaces no mode is changed
for number in range(2000):
    os.close(os.open(f"f{number}", os.O_CREAT))
print(home)
"""


def test_fs_30_a_hostile_private_folder_is_removed_and_nothing_else(box: Box, tree: Tree, leaks: object) -> None:
    (tree.read / "kept").write_text("x")
    result = box.inside(
        "/usr/bin/python3",
        "-c",
        HOSTILE,
        fs_readable=SYSTEM,
        private_tmp=True,
        env={"OUTSIDE": str(tree.read)},
        timeout=60,
    )
    assert result.success, result.stderr
    assert not os.path.lexists(result.stdout.strip())
    assert (tree.read / "kept").read_text() == "x"


def test_the_private_folder_is_private_and_the_only_one_to_write(box: Box, leaks: object) -> None:
    script = (
        'stat -c %a "$TMPDIR"; echo x > "$TMPDIR/x" && cat "$TMPDIR/x"; '
        "echo x > /tmp/sandlock-test-y || echo refused; ls /tmp || echo unlisted"
    )
    result = box.inside("/bin/sh", "-c", script, fs_readable=SYSTEM, fs_writable=[], private_tmp=True, cwd="/")
    assert result.stdout.split() == [b"700", b"x", b"refused", b"unlisted"], result
    assert not os.path.exists("/tmp/sandlock-test-y")


def test_fifty_at_once_from_fifty_threads(box: Box, mark: str, leaks: object) -> None:
    """Each sees its own argument, environment and streams; the sleeps overlap."""

    def one(number: int) -> tuple[int, bytes, int]:
        with box.sandbox(fs_readable=SYSTEM, env={"NUMBER": str(number)}) as sandbox:
            result = sandbox.run(
                ["/bin/sh", "-c", f"sleep 0.5; cat; echo $NUMBER {mark}; exit $((NUMBER % 7))"], input=b"%d " % number
            )
        return number, result.stdout, result.exit_code

    started = time.monotonic()
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(one, range(50)))
    took = time.monotonic() - started
    for number, output, code in answers:
        assert output == f"{number} {number} {mark}\n".encode()
        assert code == number % 7
    assert took < 10, f"{took:.2f} s: they did not overlap"
    assert alive_with(mark) == {}


def test_one_ends_while_its_neighbours_go_on(box: Box, mark: str, leaks: object) -> None:
    """The kill of one sandbox reaches its own processes only, many times, with many beside it."""
    stop = threading.Event()
    wrong: list[object] = []

    def steady(number: int) -> None:
        while not stop.is_set():
            result = box.inside("/bin/sh", "-c", f"sleep 0.3; echo {number} {mark}", fs_readable=SYSTEM)
            if result.stdout != f"{number} {mark}\n".encode() or not result.success:
                wrong.append((number, reason_of(result), result.exit_code, result.stdout))

    threads = [threading.Thread(target=steady, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        box.inside("outlive", "family", mark, "9", timeout=0.15)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert alive_with(mark) == {}


def test_launches_among_forks_and_signals_of_the_host(box: Box, tree: Tree, leaks: object) -> None:
    """Other threads fork, open files and take signals meanwhile: no descriptor slips in, no launch is lost."""
    stop = threading.Event()
    hits = []
    previous = signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)

    def noise() -> None:
        while not stop.is_set():
            fd = os.open("/", os.O_RDONLY)
            os.set_inheritable(fd, True)
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            os.close(fd)

    thread = threading.Thread(target=noise)
    thread.start()
    try:
        for _ in range(150):
            assert sorted(box.lines("evade", "descriptors")) == ["fd_0", "fd_1", "fd_2"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        stop.set()
        thread.join()
    assert hits


def test_the_memory_of_a_large_host_is_not_copied(box: Box, leaks: object) -> None:
    """Launching shares the memory until exec, so page tables of a large host cost nothing. Bounded loosely."""
    before = time.monotonic()
    for _ in range(20):
        box.inside("/bin/true", fs_readable=SYSTEM)
    small = time.monotonic() - before
    ballast = bytearray(256 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    before = time.monotonic()
    for _ in range(20):
        box.inside("/bin/true", fs_readable=SYSTEM)
    large = time.monotonic() - before
    assert large < small * 2 + 0.2, (small, large)
