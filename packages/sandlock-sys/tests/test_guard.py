"""Orders reach the whole tree and nothing else, the report tells the end, and nobody inside reaches the guard."""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from launch_lab import alive_with, fields_of, has_ended, launched, new_mark, wait_until

from sandlock_sys.guard import Report

if TYPE_CHECKING:
    from sandlock_testkit.outsider import Outsider

pytestmark = pytest.mark.usefixtures("leaks")

SCOPED = pytest.mark.parametrize("scoped", [pytest.param(True, marks=pytest.mark.needs("landlock", level=6)), False],
                                 ids=["scoped", "walking"])  # fmt: skip
# A daemon as daemon(3) makes it: a session of its own, and its parents gone.
DAEMON = "(setsid sh -c 'sleep 600 {mark} & exec sleep 600 {mark}' >/dev/null 2>&1 &); {then}"
YOUNG_S = 0.04  # longer than a guard shares the host's memory


def daemon(mark: str, then: str = "exec sleep 600") -> list[str]:
    return ["sh", "-c", DAEMON.format(mark=mark, then=then)]


def status_of(report: Report | None) -> int:
    assert report is not None, "the guard was killed"
    return os.waitstatus_to_exitcode(report.status)


@SCOPED
@pytest.mark.parametrize("after", [0.0, YOUNG_S], ids=["young", "old"])
@pytest.mark.parametrize("end", ["kill", "close", "main ends", "control socket closed"])
def test_pr_05_daemons_end_with_the_sandbox(scoped: bool, after: float, end: str, outsider: Outsider) -> None:
    mark = new_mark()
    wait = "trap 'exit 3' TERM; while :; do sleep 0.01; done"
    with launched(daemon(mark, wait), scoped=scoped) as spawned:
        assert wait_until(lambda: len(alive_with(mark)) >= 2)
        time.sleep(after)
        if end == "kill":
            spawned.guard.kill()
            assert status_of(spawned.guard.report()) == -signal.SIGKILL
        elif end == "close":
            spawned.guard.close()
        elif end == "main ends":
            spawned.guard.signal_main(signal.SIGTERM)
            # By its trap, or before the shell has come to set it.
            assert status_of(spawned.guard.report()) in {3, -signal.SIGTERM}
        else:
            os.close(spawned.guard._control)
            spawned.guard._control = -1
            assert has_ended(spawned)
        assert alive_with(mark) == []
    assert outsider.alive()


@SCOPED
def test_a_signal_to_all_reaches_daemons_and_one_to_main_only_it(scoped: bool, outsider: Outsider) -> None:
    mark = new_mark()
    with launched(daemon(mark), scoped=scoped) as spawned:
        assert wait_until(lambda: len(alive_with(mark)) >= 2 and comm(spawned.pid) == "sleep")
        tree = [*alive_with(mark), spawned.pid]
        spawned.guard.signal_all(signal.SIGSTOP)
        assert wait_until(lambda: {state_of(pid) for pid in tree} == {"T"})
        spawned.guard.signal_main(signal.SIGCONT)
        assert wait_until(lambda: state_of(spawned.pid) == "S")
        assert {state_of(pid) for pid in tree[:-1]} == {"T"}
        spawned.guard.signal_all(signal.SIGCONT)
        assert wait_until(lambda: {state_of(pid) for pid in tree} == {"S"})
        spawned.guard.signal_main(signal.SIGTERM)
        assert status_of(spawned.guard.report()) == -signal.SIGTERM
    assert outsider.alive()


def state_of(pid: int) -> str:
    return fields_of(Path(f"/proc/{pid}/status").read_bytes())["State"][0]


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


LEADERLESS = """
#include <pthread.h>
#include <unistd.h>
static void *run(void *nothing) { for (;;) pause(); }
int main(void)
{
    if (fork() == 0) {
        pthread_t thread;
        setsid();
        pthread_create(&thread, 0, run, 0);
        pthread_exit(0); /* in /proc the process is a zombie now, and it lives */
    }
    sleep(600);
}
"""


@SCOPED
def test_a_process_whose_first_thread_has_ended_is_killed_too(scoped: bool, compile_c: Callable[..., Path]) -> None:
    with launched([str(compile_c(LEADERLESS))], scoped=scoped) as spawned:
        time.sleep(YOUNG_S)
        started = time.monotonic()
        spawned.guard.kill()
        assert has_ended(spawned), "the guard waits for a process that it takes for dead"
        assert time.monotonic() - started < 2


NAMED = """
#include <sys/prctl.h>
#include <unistd.h>
int main(int count, char **words)
{
    prctl(PR_SET_NAME, ") S 1 1 ("); /* what a careless reader of /proc/PID/stat takes for a parent */
    if (fork() == 0) { setsid(); sleep(600); }
    sleep(600);
}
"""


def test_a_walk_is_not_misled_by_a_name(compile_c: Callable[..., Path]) -> None:
    mark = new_mark()
    with launched([str(compile_c(NAMED)), mark], scoped=False) as spawned:
        assert wait_until(lambda: len(alive_with(mark)) == 2)
        spawned.guard.kill()
        assert has_ended(spawned)
    assert alive_with(mark) == []


BOMB = """
#include <unistd.h>
int main(int count, char **words)
{
    /* Bounded by itself where no limit bounds it: depth 6, and each level goes on making children that end. */
    for (int level = 0; level < 6; level++)
        if (fork() == 0 && level % 2) setsid();
    for (;;) {
        if (fork() == 0) { usleep(1000); if (fork() == 0) { usleep(500); _exit(0); } _exit(0); }
        usleep(20000);
    }
}
"""


@SCOPED
def test_pr_07_a_small_fork_bomb_is_ended(scoped: bool, compile_c: Callable[..., Path], outsider: Outsider) -> None:
    mark = new_mark()
    with launched([str(compile_c(BOMB)), mark], scoped=scoped) as spawned:
        assert wait_until(lambda: len(alive_with(mark)) >= 64)
        spawned.guard.kill()
        assert has_ended(spawned, 30)
        assert alive_with(mark) == []
    assert outsider.alive()


@SCOPED
@pytest.mark.parametrize("after", [0.0, YOUNG_S], ids=["young", "old"])
def test_a_guard_that_is_killed_takes_the_program_along(scoped: bool, after: float) -> None:
    mark = new_mark()
    with launched(["sleep", "600", mark], scoped=scoped) as spawned:
        time.sleep(after)
        os.kill(spawned.guard.pid, signal.SIGKILL)
        assert has_ended(spawned)
        assert spawned.guard.report() is None
        assert wait_until(lambda: alive_with(mark) == [])


@SCOPED
def test_the_report_counts_and_measures(scoped: bool) -> None:
    script = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; (true); (setsid true &); sleep 0.05; exit 5"
    with launched(["sh", "-c", script], scoped=scoped) as spawned:
        report = spawned.guard.report()
    assert status_of(report) == 5
    assert report is not None
    assert report.reaped >= 2, "the program, and the daemon that came to the guard"
    assert 10_000 < report.user_us + report.system_us < 20_000_000
    assert report.peak_kib == 0, "the shell is smaller than the host, whose peak the kernel counts for it"


def test_a_peak_above_the_hosts_own_is_reported() -> None:
    ours_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = (ours_kib << 10) + (64 << 20)
    with launched(["python3", "-c", f"x = b'x' * {size}"]) as spawned:
        report = spawned.guard.report()
    assert report is not None
    assert report.peak_kib > ours_kib + (32 << 10)


def test_what_a_young_guard_counted_is_not_lost_when_it_becomes_the_program() -> None:
    script = "for i in 1 2 3; do (setsid true &); done; sleep 0.1; exit 0"
    with launched(["sh", "-c", script]) as spawned:
        report = spawned.guard.report()
    assert report is not None
    assert report.reaped >= 4


@pytest.mark.needs("landlock", level=6)
def test_an_order_that_comes_too_late_does_not_cost_the_report() -> None:
    """The kernel tells the host of the unread order before it gives it the report."""
    with launched(["sleep", "600"]) as spawned:
        guard = spawned.guard
        os.kill(guard.pid, signal.SIGSTOP)
        assert wait_until(lambda: state_of(guard.pid) == "T")
        os.kill(spawned.pid, signal.SIGTERM)
        assert wait_until(lambda: state_of(spawned.pid) == "Z")
        guard.signal_all(signal.SIGCONT)
        os.kill(guard.pid, signal.SIGCONT)
        assert status_of(guard.report()) == -signal.SIGTERM


@SCOPED
def test_orders_to_a_guard_that_has_ended_are_no_error(scoped: bool) -> None:
    with launched(["true"], scoped=scoped) as spawned:
        assert has_ended(spawned)
        spawned.guard.signal_main(signal.SIGTERM)
        spawned.guard.signal_all(signal.SIGTERM)
        spawned.guard.kill()
        assert status_of(spawned.guard.report()) == 0
        assert spawned.guard.report() is None, "it is told once"


@SCOPED
def test_a_guard_that_was_stopped_from_outside_hears_a_kill(scoped: bool) -> None:
    with launched(["sleep", "600"], scoped=scoped) as spawned:
        time.sleep(YOUNG_S)
        os.kill(spawned.guard.pid, signal.SIGSTOP)
        assert wait_until(lambda: state_of(spawned.guard.pid) == "T")
        # As many orders as its queue takes, and more: the kill needs no room there.
        with pytest.raises(OSError, match="errno 11") as caught:
            for _ in range(10_000):
                spawned.guard.signal_main(0)
        assert caught.value.errno == errno.EAGAIN
        spawned.guard.kill()
        assert status_of(spawned.guard.report()) == -signal.SIGKILL


def test_the_guard_holds_no_fd_capability_or_memory_of_the_host() -> None:
    with launched(["sleep", "600"]) as spawned:
        guard = spawned.guard.pid
        assert wait_until(lambda: Path(f"/proc/{guard}/cmdline").read_bytes().startswith(b"sandlock-guard\0"))
        links = {os.readlink(f"/proc/{guard}/fd/{name}").partition(":")[0] for name in os.listdir(f"/proc/{guard}/fd")}
        assert links <= {"socket", "anon_inode"}
        status = fields_of(Path(f"/proc/{guard}/status").read_bytes())
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert int(status["VmRSS"].split()[0]) < 2000


ATTACK = r"""
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <unistd.h>
int main(int count, char **words)
{
    for (int index = 1; index < count; index++) {
        pid_t pid = atoi(words[index]);
        char memory[8], path[64];
        struct iovec local = {memory, 8}, remote = {(void *)0x10000, 8};
        int results[4];
        results[0] = kill(pid, SIGCONT) ? errno : 0;
        results[1] = ptrace(PTRACE_SEIZE, pid, 0, 0) ? errno : 0;
        results[2] = process_vm_readv(pid, &local, 1, &remote, 1, 0) < 0 ? errno : 0;
        snprintf(path, sizeof path, "/proc/%d/environ", pid);
        FILE *file = fopen(path, "r");
        results[3] = file ? 0 : errno;
        printf("%d %d %d %d\n", results[0], results[1], results[2], results[3]);
    }
    fflush(stdout);
    sleep(600);
}
"""


@pytest.mark.needs("landlock", level=6)
@pytest.mark.parametrize("after", [0.0, YOUNG_S], ids=["young", "old"])
def test_nobody_inside_reaches_the_guard_or_the_host(
    after: float, compile_c: Callable[..., Path], outsider: Outsider
) -> None:
    program = compile_c(ATTACK)
    assert attempts([str(program), str(outsider.pid)], 1, scoped=False)[0][0] == "0", "without the scope it is in reach"
    script = f"sleep {after}; exec {program} $PPID {os.getpid()} {outsider.pid} $(ls /proc/{os.getpid()}/task)"
    for refused in attempts(["sh", "-c", script], 4):
        assert refused == [str(errno.EPERM)] * 3 + [str(errno.EACCES)]


def attempts(argv: list[str], count: int, **fields: Any) -> list[list[str]]:
    """What the attack program tells of its first `count` victims."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as stream:
        try:
            with launched(argv, stdio=(0, writer, 2), **fields):
                return [stream.readline().split() for _ in range(count)]
        finally:
            os.close(writer)
