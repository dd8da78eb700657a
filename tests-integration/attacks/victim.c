/* A process that says what was done to it.
 *
 * It prints "PID TID ADDRESS FD GROUP" and then answers each line on stdin with one line of its state: the canary in its
 * memory, signals received, niceness, scheduling policy, CPUs, soft and hard RLIMIT_NOFILE, I/O priority, oom_score_adj.
 * TID is a second thread. It ends with its stdin.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static char canary[9] = "UNTOUCHD";
static volatile int signals;
static int second;

static void count(int unused)
{
    (void)unused;
    signals++;
}

static void *sleeper(void *unused)
{
    __atomic_store_n(&second, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
    for (;;)
        pause();
    return unused;
}

static void say(int whom, const char *end)
{
    cpu_set_t cpus;
    struct rlimit files;
    CPU_ZERO(&cpus);
    sched_getaffinity(whom, sizeof cpus, &cpus);
    getrlimit(RLIMIT_NOFILE, &files);
    printf("nice=%d policy=%d cpus=%d files=%ld ioprio=%ld%s", getpriority(PRIO_PROCESS, (id_t)whom), sched_getscheduler(whom),
           CPU_COUNT(&cpus), (long)files.rlim_cur, syscall(SYS_ioprio_get, 1, whom), end);
}

int main(void)
{
    char line[64], score[16] = {0};
    struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGURG, &action, NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, sleeper, NULL);
    while (__atomic_load_n(&second, __ATOMIC_ACQUIRE) == 0)
        usleep(1000);
    printf("%d %d %lu %d %d\n", getpid(), second, (unsigned long)canary, open("/dev/null", O_RDONLY), getpgrp());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        int fd = open("/proc/self/oom_score_adj", O_RDONLY);
        if (fd >= 0) {
            if (read(fd, score, sizeof score - 1) < 0)
                score[0] = 0;
            close(fd);
        }
        score[strcspn(score, "\n")] = 0;
        printf("canary=%s signals=%d oom=%s ", canary, signals, score);
        say(0, " thread ");
        say(second, "\n");
        fflush(stdout);
    }
    return 0;
}
