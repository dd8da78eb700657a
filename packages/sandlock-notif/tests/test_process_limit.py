"""max_processes counts living processes exactly: PR-07 in every way to fork and to reap."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import Outcome, supervise

from sandlock_notif.handlers.processes import Count, ProcessLimit, Thread, decide_fork, decide_settled
from sandlock_notif.handlers.signals import ChildSignals
from sandlock_notif.tracing import Tracer
from sandlock_policy.seccomp.rules import ABSENT, Rule

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("pidfd", level=2),
    pytest.mark.needs("compiler"),
    pytest.mark.usefixtures("leaks"),
]

CLONE3 = Rule("clone3", (), ABSENT, "as in the default filter")
SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static _Atomic int *shared; /* [0] alive children, [1] most at once, [2] forks, [3] refusals */

static pid_t kept[100];

static void enter(void)
{
    int now = atomic_fetch_add(&shared[0], 1) + 1, most = shared[1];
    while (now > most && !atomic_compare_exchange_weak(&shared[1], &most, now)) {}
}

static void leave(void) { atomic_fetch_sub(&shared[0], 1); syscall(SYS_exit_group, 0); }

static pid_t make(const char *how)
{
    if (!strcmp(how, "fork")) return syscall(SYS_fork);
    if (!strcmp(how, "clone")) return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (!strcmp(how, "parent")) return syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
    return syscall(SYS_clone, 0, 0, 0, 0, 0); /* no signal at its end */
}

/* As many as it gets, all kept alive. */
static int fill(const char *how)
{
    int made = 0;
    while (made < 100) {
        pid_t child = make(how);
        if (child == 0) { enter(); for (;;) pause(); }
        if (child < 0) { printf("%d %s\n", made, errno == EAGAIN ? "EAGAIN" : "?"); return made; }
        kept[made++] = child;
    }
    printf("%d unbounded\n", made);
    return made;
}

/* One after the other, each certainly gone: none may be refused. */
static void serial(int count, int ignore)
{
    int refused = 0;
    if (ignore) signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) _exit(0);
        if (child < 0) { refused++; continue; }
        if (ignore) while (kill(child, 0) == 0) sched_yield();
        else waitpid(child, 0, 0);
    }
    printf("refused %d\n", refused);
}

static void *storm(void *count)
{
    for (long i = 0; i < (long)count; i++) {
        pid_t child = fork();
        if (child == 0) { enter(); for (volatile int j = 0; j < 20000; j++) {} leave(); }
        if (child < 0) atomic_fetch_add(&shared[3], 1); else atomic_fetch_add(&shared[2], 1);
        while (waitpid(-1, 0, WNOHANG) > 0) {}
    }
    return 0;
}

static void storms(int threads, long count)
{
    pthread_t ids[64];
    for (int i = 0; i < threads; i++) pthread_create(&ids[i], 0, storm, (void *)count);
    for (int i = 0; i < threads; i++) pthread_join(ids[i], 0);
    while (wait(0) > 0) {}
    printf("most %d some %d\n", shared[1], shared[2] > 0);
}

/* Each thread has one child at a time, so as many processes live as there are threads, and the first one. */
static void *one_at_a_time(void *count)
{
    for (long i = 0; i < (long)count; i++) {
        pid_t child = i % 2 ? vfork() : syscall(SYS_fork);
        if (child == 0) _exit(0);
        if (child < 0) atomic_fetch_add(&shared[3], 1); else waitpid(child, 0, 0);
    }
    return 0;
}

static void steady(int threads, long count)
{
    pthread_t ids[64];
    for (int i = 0; i < threads; i++) pthread_create(&ids[i], 0, one_at_a_time, (void *)count);
    for (int i = 0; i < threads; i++) pthread_join(ids[i], 0);
    printf("refused %d\n", shared[3]);
}

static void orphans(int count)
{
    int alive = 0;
    for (int i = 0; i < count; i++) {
        pid_t middle = fork();
        if (middle == 0) {
            setsid();
            pid_t orphan = fork();
            if (orphan == 0) { enter(); for (;;) pause(); }
            _exit(orphan < 0);
        }
        if (middle < 0) break;
        int status;
        waitpid(middle, &status, 0);
        if (status) break;
        alive++;
    }
    printf("%d\n", alive);
}

static void zombies(void)
{
    int made = 0;
    for (; made < 400; made++) {
        pid_t child = fork();
        if (child == 0) _exit(0);
        if (child < 0) break;
        siginfo_t info;
        waitid(P_PID, child, &info, WEXITED | WNOWAIT);
    }
    printf("%d\n", made);
}

static void *spin(void *unused) { fork() == 0 ? _exit(0) : 0; for (;;) {} return unused; }

/* A thread that never sleeps after its fork must not keep its place. */
static void spinner(void)
{
    pthread_t id;
    signal(SIGCHLD, SIG_IGN);
    pthread_create(&id, 0, spin, 0);
    usleep(100000);
    pid_t child = fork();
    if (child == 0) _exit(0);
    printf("%s\n", child > 0 ? "made" : "refused");
}

static void suspended(void)
{
    pid_t child = vfork();
    if (child == 0) { /* the parent sleeps until this one is gone; it makes and ends others meanwhile */
        int refused = 0;
        for (int i = 0; i < 20; i++) {
            pid_t other = fork();
            if (other == 0) _exit(0);
            if (other < 0) refused++;
            waitpid(other, 0, 0);
        }
        printf("refused %d\n", refused);
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, 0, 0);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!strcmp(argv[1], "fill")) { fill(argv[2]); kill(-getpgrp(), SIGKILL); }
    if (!strcmp(argv[1], "again")) {
        for (int i = 0; i < 5; i++) {
            int made = fill("fork");
            while (made--) kill(kept[made], SIGKILL);
            while (wait(0) > 0) {}
        }
    }
    if (!strcmp(argv[1], "serial")) serial(atoi(argv[2]), 0);
    if (!strcmp(argv[1], "ignored")) serial(atoi(argv[2]), 1);
    if (!strcmp(argv[1], "storm")) storms(atoi(argv[2]), atoi(argv[3]));
    if (!strcmp(argv[1], "steady")) steady(atoi(argv[2]), atoi(argv[3]));
    if (!strcmp(argv[1], "orphans")) orphans(100);
    if (!strcmp(argv[1], "zombies")) zombies();
    if (!strcmp(argv[1], "spinner")) { spinner(); _exit(0); }
    if (!strcmp(argv[1], "suspended")) suspended();
    return 0;
}
"""
Compile = Callable[..., Path]


@pytest.fixture
def program(compile_c: Compile) -> str:
    return str(compile_c(SOURCE, "-pthread", "-w"))


def run(program: str, *words: str, limit: int, zombies: int = 1024) -> Outcome:
    return supervise([program, *words], ProcessLimit(limit, zombies=zombies), rules=[CLONE3])


@pytest.mark.parametrize("how", ["fork", "clone", "parent", "silent"])
@pytest.mark.parametrize("limit", [1, 2, 7])
def test_pr_07_the_first_and_its_children_are_as_many_as_the_limit(program: str, how: str, limit: int) -> None:
    assert run(program, "fill", how, limit=limit).output == f"{limit - 1} EAGAIN\n".encode()
    # The attack wins without the table.
    assert supervise([program, "fill", how]).output == b"100 unbounded\n"


def test_pr_07_what_ended_makes_room_for_as_many(program: str) -> None:
    assert run(program, "again", limit=6).output == b"5 EAGAIN\n" * 5


@pytest.mark.parametrize("style", ["serial", "ignored"])
def test_pr_07_a_child_that_is_gone_takes_no_place(program: str, style: str) -> None:
    assert run(program, style, "300", limit=2).output == b"refused 0\n"


@pytest.mark.parametrize(("threads", "limit"), [(1, 3), (8, 5), (16, 12)])
def test_pr_07_threads_that_fork_at_once_never_exceed_the_limit(program: str, threads: int, limit: int) -> None:
    outcome = run(program, "storm", str(threads), "60", limit=limit)
    _, most, _, some = outcome.output.split()
    assert some == b"1"
    assert int(most) <= limit - 1


def test_threads_that_never_reach_the_limit_together_are_not_refused(program: str) -> None:
    """What was promised after a census may have ended by the time it is looked at."""
    assert run(program, "steady", "8", "60", limit=12).output == b"refused 0\n"


def test_pr_07_daemons_are_counted_wherever_they_hang(program: str) -> None:
    # The last one needs a place for the process between, too.
    assert run(program, "orphans", limit=8).output == b"6\n"


def test_pr_07_zombies_are_not_living_but_bounded(program: str) -> None:
    assert run(program, "zombies", limit=10, zombies=50).output in {f"{50 + n}\n".encode() for n in range(11)}
    assert run(program, "zombies", limit=10).output == b"400\n"


def test_pr_07_a_thread_that_never_sleeps_does_not_keep_the_place_of_a_child_that_ended(program: str) -> None:
    assert run(program, "spinner", limit=2).output == b"made\n"


def test_pr_07_a_child_of_vfork_may_fork_while_its_parent_is_suspended(program: str) -> None:
    assert run(program, "suspended", limit=3).output == b"refused 0\n"
    assert run(program, "suspended", limit=2).output == b"refused 20\n"


@pytest.mark.parametrize("style", ["ended", "vfork"])
def test_pr_07_a_fork_that_waits_for_a_lock_keeps_its_place(compile_c: Compile, style: str) -> None:
    """Eight of twenty places were given away twice: for zombies, or children of vfork, that were there before."""
    attack = str(compile_c(Path(__file__).with_name("forks_held_up.c").read_text(), "-pthread", "-w"))
    outcome = supervise([attack, style, "8", "128"], ProcessLimit(20), rules=[CLONE3])
    _, filled, _, most = outcome.output.split()
    assert int(filled) == (18 if style == "ended" else 10)
    assert 16 <= int(most) <= 20


def test_a_shell_with_pipelines_and_posix_spawn_runs_under_a_close_limit() -> None:
    script = "i=0; while [ $i -lt 60 ]; do echo $i | cat | cat >/dev/null || exit 1; i=$((i+1)); done; echo done"
    outcome = supervise(["/bin/sh", "-c", script], ChildSignals(), ProcessLimit(5), rules=[CLONE3])
    assert (outcome.code, outcome.output) == (0, b"done\n"), outcome.events


def test_a_refusal_is_told() -> None:
    outcome = supervise(["/bin/sh", "-c", "/bin/true & wait; :"], ProcessLimit(1), rules=[CLONE3])
    assert {event.reason for event in outcome.events} == {"max_processes: 1 processes live"}
    assert outcome.code == 2


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(1, 50), st.integers(1, 50))
def test_a_fork_is_refused_exactly_when_it_would_exceed_a_bound(
    known: int, promised: int, dead: int, limit: int, zombies: int
) -> None:
    refusal = decide_fork(Count(known, promised, dead), limit, zombies)
    assert bool(refusal) == (known + promised + 1 > limit or dead >= zombies)


def test_only_a_thread_that_is_certainly_elsewhere_has_settled() -> None:
    assert decide_settled(Thread.GONE, patient=True)
    assert decide_settled(Thread.ELSEWHERE, patient=True)
    assert decide_settled(Thread.RUNNING, patient=True) is False
    assert decide_settled(Thread.RUNNING, patient=False) is None
    assert decide_settled(Thread.FORKING, patient=False) is False
    assert decide_settled(Thread.HIDDEN, patient=False) is False


@pytest.mark.parametrize("asks_again", [True, False])
def test_a_thread_that_cannot_stop_before_it_is_answered_holds_no_census_up(asks_again: bool) -> None:
    """It is in its next fork, whose answer waits for this census (seen to hang for ever)."""

    class Stuck(Tracer):
        async def run(self, job: object) -> NoReturn:
            await asyncio.Event().wait()
            raise AssertionError

    async def census() -> tuple[bool, float]:
        limit = ProcessLimit(1, tracer=Stuck())
        limit._in_flight[7] = False
        if asks_again:
            asyncio.get_running_loop().call_later(0.05, limit._in_flight.pop, 7)
        begin = time.monotonic()
        return await limit._stopped(7, begin + 0.3), time.monotonic() - begin

    stopped, took_s = asyncio.run(asyncio.wait_for(census(), 30))
    assert stopped is asks_again
    assert asks_again or took_s >= 0.3
