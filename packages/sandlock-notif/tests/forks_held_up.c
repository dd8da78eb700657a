/* Forks that wait for a lock of their memory, while other processes end (argv[1]: "ended") or are suspended by vfork:
   a census must not take these for the children of those. argv[2]: how many; argv[3]: MiB whose population holds the
   lock. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* [0] alive, [1] most at once, [2] the helper may begin, [3] it is done, [4] the lock is held */
static _Atomic int *shared;
static size_t size;
static char *memory;

static void stay(void)
{
    int now = atomic_fetch_add(&shared[0], 1) + 1, most = shared[1];
    while (now > most && !atomic_compare_exchange_weak(&shared[1], &most, now)) {}
    for (;;) pause();
}

static void *hold(void *unused)
{
    shared[4] = 1;
    for (int i = 0; i < 4; i++) {
        madvise(memory, size, 23 /* MADV_POPULATE_WRITE */);
        madvise(memory, size, MADV_DONTNEED);
    }
    shared[4] = 0;
    return unused;
}

static void *forks(void *unused)
{
    while (!shared[4]) sched_yield();
    usleep(3000);
    if (syscall(SYS_fork) == 0) stay();
    return unused;
}

static void *vforks(void *unused) { if (vfork() == 0) stay(); return unused; }

static int helper(void)
{
    int made = 0;
    while (!shared[2]) usleep(500);
    for (; made < 50; made++) {
        pid_t child = syscall(SYS_fork);
        if (child == 0) stay();
        if (child < 0) break;
    }
    shared[3] = 1;
    for (;;) pause();
}

int main(int argc, char **argv)
{
    int count = atoi(argv[2]), ended = !strcmp(argv[1], "ended"), made = 0;
    pid_t children[100], other;
    pthread_t id;
    size = (size_t)atoi(argv[3]) << 20;
    shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared[0] = shared[1] = 2; /* this one, and the helper, whose forks wait for nobody: it has memory of its own */
    if (fork() == 0) helper();
    if (!ended) for (int i = 0; i < count; i++) pthread_create(&id, 0, vforks, 0);
    while (!ended && shared[0] < 2 + count) usleep(1000);
    while (made < 100 && (other = fork()) >= 0) { /* up to the limit, so that all are known */
        if (other == 0) stay();
        children[made++] = other;
    }
    for (int i = 0; i < (ended ? count : made); i++) {
        siginfo_t info;
        while (shared[0] < 2 + made) usleep(1000);
        kill(children[i], SIGKILL);
        waitid(P_PID, children[i], &info, WEXITED | (ended ? WNOWAIT : 0));
    }
    usleep(200000); /* their ends are heard of */
    shared[0] -= ended ? count : made;
    memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int i = 0; i < count; i++) pthread_create(&id, 0, forks, 0);
    pthread_create(&id, 0, hold, 0);
    while (!shared[4]) sched_yield();
    usleep(15000);
    shared[2] = 1;
    while (!shared[3] || shared[4]) usleep(1000);
    usleep(300000);
    printf("filled %d most %d\n", made, shared[1]);
    fflush(stdout);
    kill(-getpgrp(), SIGKILL);
}
