/* Alternate stack, interval timer, POSIX timer with a chosen value, blocked signals that wait with values. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static char stack[65536];
static volatile int on_stack, alarms, timers, timer_value;

static void on_alarm(int signal, siginfo_t *info, void *context)
{
    char here;
    (void)signal, (void)info, (void)context;
    on_stack = &here >= stack && &here < stack + sizeof stack;
    alarms++;
}

static void on_timer(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    timer_value = info->si_value.sival_int;
    timers++;
}

int main(int argc, char **argv)
{
    const char *flag = argv[argc - 1];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternate, NULL);
    struct sigaction action = {.sa_sigaction = on_alarm, .sa_flags = SA_ONSTACK | SA_SIGINFO | SA_RESTART};
    sigaddset(&action.sa_mask, SIGUSR1);
    sigaction(SIGALRM, &action, NULL);
    action.sa_sigaction = on_timer;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaction(SIGRTMIN, &action, NULL);
    struct itimerval every = {{0, 50000}, {0, 50000}};
    setitimer(ITIMER_REAL, &every, NULL);
    timer_t unused, timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 4711};
    timer_create(CLOCK_MONOTONIC, &event, &unused);
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    timer_delete(unused);
    struct itimerspec soon = {{0, 70000000}, {0, 70000000}};
    timer_settime(timer, 0, &soon, NULL);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGRTMIN + 2);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 11});
    sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 22});
    raise(SIGUSR1);
    signal(SIGHUP, SIG_IGN);
    umask(027);
    struct rlimit files = {64, 64};
    setrlimit(RLIMIT_NOFILE, &files);
    printf("ready\n");
    fflush(stdout);
    while (access(flag, F_OK))
        usleep(1000);
    int before = alarms, timed = timers;
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        usleep(10000); /* every alarm ends it early */
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < 400);
    siginfo_t info;
    now = (struct timespec){0, 0};
    int first = sigtimedwait(&blocked, &info, &now);
    int second = sigtimedwait(&blocked, &info, &now);
    int value = info.si_value.sival_int;
    sigtimedwait(&blocked, &info, &now);
    struct sigaction old;
    sigaction(SIGHUP, NULL, &old);
    getrlimit(RLIMIT_NOFILE, &files);
    printf("alarms %d on_stack %d timers %d value %d\n", alarms - before >= 3, on_stack, timers - timed >= 2, timer_value);
    printf("pending %d %d %d %d\n", first == SIGUSR1, second == SIGRTMIN + 2, value, info.si_value.sival_int);
    printf("ignored %d umask %o files %d\n", old.sa_handler == SIG_IGN, umask(0), (int)files.rlim_cur);
    struct itimerspec left;
    printf("timer %d\n", timer_gettime(timer, &left) == 0 && left.it_interval.tv_nsec == 70000000);
    return 0;
}
