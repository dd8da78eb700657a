"""A launch changes nothing in the host, whatever the host is doing, and does not depend on its threads or signals."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from launch_lab import alive_with, fields_of, has_ended, host, launched, new_mark, new_request, output_of, wait_until

from sandlock_sys import prctl
from sandlock_sys.spawn import NO_ASLR, NO_THP, SpawnError, spawn

if TYPE_CHECKING:
    from sandlock_testkit.outsider import Outsider

pytestmark = pytest.mark.usefixtures("leaks")

KEPT = (
    "Name Umask Uid Gid Groups SigBlk SigIgn SigCgt SigPnd ShdPnd CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp"
    " Seccomp_filters THP_enabled Cpus_allowed"
).split()


def state() -> dict[str, object]:
    """Everything of this process, and of this thread, that a step of a launch sets in a child."""
    status = fields_of(Path("/proc/thread-self/status").read_bytes())
    return {name: status.get(name) for name in KEPT} | {
        "cwd": os.getcwd(),
        "limits": [resource.getrlimit(number) for number in range(resource.RLIM_NLIMITS)]
        if hasattr(resource, "RLIM_NLIMITS")
        else [resource.getrlimit(number) for number in range(16)],
        "ids": (os.getsid(0), os.getpgid(0), os.getppid()),
        "subreaper": prctl.get_child_subreaper(),
        "dumpable": prctl.get_dumpable(),
        "pdeathsig": prctl.get_parent_death_signal(),
        "thp": prctl.get_thp_disable(),
        "personality": prctl.get_personality(),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "namespaces": [os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt", "pid", "net")],
        "maps": Path("/proc/self/uid_map").read_text(),
        "fds": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
        "handlers": [signal.getsignal(number) for number in range(1, 32)],
    }


def mounts_of() -> dict[str, Any]:
    return {"writable": [], "id_map": None if os.geteuid() == 0 else (os.getuid(), os.getgid())}


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "walking": {"scoped": False},
    "own memory": {"flags": NO_THP},
    "fixed addresses": {"flags": NO_ASLR},
    "limits": {
        "limits": [(resource.RLIMIT_NOFILE, 50, 60), (resource.RLIMIT_CORE, 0, 0)],
        "affinity": [0],
        "cwd": b"/",
    },
    "parked": {"park": True},
    "parked with own memory": {"park": True, "flags": NO_THP},
}


@pytest.mark.parametrize("ending", ["runs", "is killed", "fails"])
@pytest.mark.parametrize("kind", [*KINDS, "namespaces"])
def test_the_host_is_as_it_was(kind: str, ending: str, outsider: Outsider) -> None:
    fields = dict(KINDS[kind]) if kind in KINDS else mounts_of()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        before = state()
        if ending == "fails":
            with new_request(["true"], **fields, keep=[900]) as request, pytest.raises(SpawnError):
                spawn(request)
        else:
            with launched(["true"] if ending == "runs" else ["sleep", "60"], **fields) as spawned:
                if ending == "runs":
                    spawned.go()
                    report = spawned.guard.report()
                    assert report is not None
                    assert report.status == 0
        assert state() == before
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
    # No domain either: files are readable and processes can be signalled.
    Path("/etc/passwd").read_bytes()
    os.kill(outsider.pid, 0)


@pytest.mark.parametrize("way", ["ignored", "handled", "reaped by a thread"])
def test_what_the_host_does_about_sigchld_changes_no_report(way: str, in_child: Any) -> None:
    def body() -> list[int]:
        stop = threading.Event()

        def reap() -> None:
            while not stop.is_set():
                try:
                    os.wait()
                except ChildProcessError:
                    time.sleep(0.0005)

        reaper = threading.Thread(target=reap, daemon=True)
        if way == "ignored":
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        elif way == "handled":
            signal.signal(signal.SIGCHLD, lambda *_: os.write(2, b""))
        else:
            reaper.start()
        codes = []
        for code in range(12):
            # A short life, and one that outlives the time in which the guard shares the host's memory.
            with launched(["sh", "-c", f"{'sleep 0.05;' if code % 6 == 5 else ''} exit {code}"]) as spawned:
                report = spawned.guard.report()
                assert report is not None
                codes.append(os.waitstatus_to_exitcode(report.status))
        stop.set()
        return codes

    assert in_child(body) == list(range(12))


@pytest.mark.parametrize("fields", [{}, {"flags": NO_THP}, {"scoped": False}], ids=["plain", "own-memory", "walking"])
def test_w_49_the_child_outlives_the_thread_that_launched_it(fields: dict[str, Any]) -> None:
    """PR_SET_PDEATHSIG follows the thread: were the guard to use it, the end of this thread would end the sandbox."""
    for _ in range(20):
        kept: list[Any] = []

        def launch(kept: list[Any] = kept) -> None:
            with new_request(["sleep", "60"], **fields) as request:
                kept.append(spawn(request))

        thread = threading.Thread(target=launch)
        thread.start()
        thread.join()
        try:
            assert not has_ended(kept[0], 0.03)
        finally:
            kept[0].guard.close()


@pytest.mark.parametrize("flags", [0, NO_THP], ids=["shared-memory", "own-memory"])
def test_w_49_a_parked_child_outlives_the_thread_that_launched_it(flags: int) -> None:
    kept: list[Any] = []

    def launch() -> None:
        with new_request(["sleep", "60"], park=True, flags=flags) as request:
            kept.append(spawn(request))

    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()
    try:
        assert not has_ended(kept[0], 0.1)
        kept[0].go()
        assert wait_until(lambda: Path(f"/proc/{kept[0].pid}/comm").read_text() == "sleep\n")
        assert not has_ended(kept[0], 0.1)
    finally:
        kept[0].guard.close()


def test_many_threads_launch_at_once() -> None:
    codes: dict[int, int] = {}

    def launch(number: int) -> None:
        for turn in range(5):
            flags = NO_THP if number % 4 == 3 else 0
            with launched(["sh", "-c", f"exit {number}"], flags=flags, park=turn % 2 == 1) as spawned:
                spawned.go()
                report = spawned.guard.report()
                assert report is not None
                codes[number * 10 + turn] = os.waitstatus_to_exitcode(report.status)

    threads = [threading.Thread(target=launch, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {number * 10 + turn: number for number in range(16) for turn in range(5)}


def test_signals_that_arrive_during_launches_run_their_handlers_in_the_host() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: got.append(os.getpid()))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(50):
            assert output_of(["echo", "fine"]) == b"fine\n"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(got) == {os.getpid()}


class InterruptionError(Exception):
    """What the handler raises, as Ctrl-C raises KeyboardInterrupt."""


def test_a_handler_that_raises_during_a_launch_leaves_nothing() -> None:
    """The signal is held back during the launch, so it raises at the very moment when that returns."""
    mark = new_mark()
    armed = False

    def interrupt(*_: object) -> None:
        if armed:
            raise InterruptionError

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for turn in range(600):  # until the signals have come at enough moments
            if interrupted == 20:
                break
            with new_request(["sleep", "600", mark]) as request:
                spawned = None
                try:
                    try:
                        armed = True
                        signal.setitimer(signal.ITIMER_REAL, 0.0001 + turn % 40 * 0.00003)
                        spawned = spawn(request)
                    finally:
                        armed = False
                except InterruptionError:
                    interrupted += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                if spawned is not None:
                    spawned.guard.close()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted == 20, "the signals came at another time"
    assert alive_with(mark) == []


def test_the_page_tables_of_a_large_host_are_not_copied() -> None:
    """A copy of a resident GiB takes milliseconds and its page tables 2 MiB; the child's own peak would show them."""
    script = """
memory = bytearray(1 << 30)
memory[::4096] = bytes(len(memory) // 4096)
def cost(**fields):
    best = 9.0
    for _ in range(7):
        start = time.perf_counter()
        with launched(["true"], **fields) as spawned:
            spawned.guard.report()
        best = min(best, time.perf_counter() - start)
    return best
large, copied = cost(), cost(flags=32)
del memory
small = cost()
print(large / small, copied / small)
"""
    with host(script) as process:
        told, _ = process.communicate(timeout=60)
    ratio, copied = map(float, told.split())
    assert copied > 2, "a copy is what costs"
    assert ratio < copied / 2


def test_a_forked_process_of_the_host_does_not_keep_a_sandbox_alive() -> None:
    """It has a copy of the control socket, whose end is therefore not the end of the last copy."""
    with launched(["sleep", "60"]) as spawned:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(reader, 1)
            os._exit(0)
        try:
            started = time.monotonic()
            spawned.guard.close()
            assert time.monotonic() - started < 5
        finally:
            os.write(writer, b"x")
            os.waitpid(pid, 0)
            os.close(reader)
            os.close(writer)


def test_a_sandbox_in_a_forked_host_is_its_own(in_child: Callable[[Callable[[], Any]], Any]) -> None:
    with launched(["sleep", "60"]) as ours:
        assert in_child(lambda: output_of(["echo", "inner"])) == b"inner\n"
        assert not has_ended(ours, 0.05)
