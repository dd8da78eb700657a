/* Every way to ask the time, and every way to wait for one: argv[1] says which. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct timespec now(int clock) { struct timespec t = {0}; clock_gettime(clock, &t); return t; }

static double since(struct timespec then)
{
    struct timespec t = now(CLOCK_MONOTONIC);
    return t.tv_sec - then.tv_sec + (t.tv_nsec - then.tv_nsec) / 1e9;
}

static struct timespec in_ms(int clock, long ms)
{
    struct timespec t = now(clock);
    t.tv_nsec += ms * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

static void show(const char *name, long long seconds) { printf("%s %lld\n", name, seconds); }

static void tell(void)
{
    static const int clocks[] = {CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI};
    for (int i = 0; i < 3; i++) {
        struct timespec t = {0};
        clock_gettime(clocks[i], &t);
        show("libc", t.tv_sec);
        syscall(SYS_clock_gettime, clocks[i], &t, 0);
        show("call", t.tv_sec);
        syscall(SYS_clock_gettime, clocks[i] | 7L << 32, &t, 0);
        show("high", t.tv_sec);
    }
    struct timeval v = {0};
    struct timezone z = {9, 9};
    gettimeofday(&v, &z);
    show("day", v.tv_sec);
    syscall(SYS_gettimeofday, &v, &z, 0);
    show("daycall", v.tv_sec);
    syscall(SYS_gettimeofday, 0, &z, 0);
    show("zone", v.tv_sec + z.tz_minuteswest);
    show("time", time(0));
    if (fork() == 0) {
        show("fork", time(0));
        exit(0);
    }
    wait(0);
#ifdef __x86_64__
    long stored = 0;
    show("timecall", syscall(SYS_time, &stored, 0, 0));
    show("stored", stored);
    syscall(SYS_clock_gettime, CLOCK_REALTIME, (void *)8, 0);
    show("fault", errno == EFAULT ? v.tv_sec : 0);
    long (*vtime)(long *) = (void *)0xffffffffff600400;
    long (*vday)(struct timeval *, void *) = (void *)0xffffffffff600000;
    show("vsyscall", vtime(&stored));
    show("vstored", stored);
    memset(&v, 0, sizeof v);
    vday(&v, 0);
    show("vday", v.tv_sec);
#endif
}

static sem_t never;
static void ring(int signal) { (void)signal; }

/* Waits until 150 ms from now on the wall clock, twice with the same structure, and says how long that took. */
static void wait_for(const char *how)
{
    struct timespec begin = now(CLOCK_MONOTONIC), until = in_ms(CLOCK_REALTIME, 150), copy = until;
    struct itimerspec spec = {.it_value = until};
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    int result = 0, word = 1;
    for (int turn = 0; turn < 2; turn++) {
        if (!strcmp(how, "nanosleep")) result = clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, 0);
        if (!strcmp(how, "tai")) { if (!turn) until = copy = in_ms(CLOCK_TAI, 150); result = clock_nanosleep(CLOCK_TAI, TIMER_ABSTIME, &until, 0); }
        if (!strcmp(how, "sem")) { while ((result = sem_timedwait(&never, &until)) && errno == EINTR) {} result = result ? errno : 0; }
        if (!strcmp(how, "cond")) { pthread_mutex_lock(&mutex); while (!(result = pthread_cond_timedwait(&cond, &mutex, &until))) {} pthread_mutex_unlock(&mutex); }
        if (!strcmp(how, "bitset")) result = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 1, &until, 0, -1) ? errno : 0;
        if (!strcmp(how, "mq")) {
            struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 8};
            char name[32], text[8];
            sprintf(name, "/sl%d", getpid());
            mqd_t queue = mq_open(name, O_RDWR | O_CREAT, 0600, &attr);
            mq_unlink(name);
            result = mq_timedreceive(queue, text, 8, 0, &until) < 0 ? errno : 0;
            mq_close(queue);
        }
        if (!strcmp(how, "timerfd")) {
            int fd = timerfd_create(CLOCK_REALTIME, 0);
            uint64_t count;
            timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, 0);
            result = read(fd, &count, 8) == 8 ? 0 : errno;
            close(fd);
        }
        if (!strcmp(how, "monotonicfd")) {
            int fd = timerfd_create(CLOCK_MONOTONIC, 0);
            uint64_t count;
            struct itimerspec other = {.it_value = in_ms(CLOCK_MONOTONIC, 75)};
            timerfd_settime(fd, TFD_TIMER_ABSTIME, &other, 0);
            result = read(fd, &count, 8) == 8 ? 0 : errno;
            close(fd);
        }
        if (!strcmp(how, "timer")) {
            timer_t timer;
            sigset_t set;
            siginfo_t info;
            struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
            sigemptyset(&set);
            sigaddset(&set, SIGUSR1);
            sigprocmask(SIG_BLOCK, &set, 0);
            timer_create(CLOCK_REALTIME, &event, &timer);
            timer_settime(timer, TIMER_ABSTIME, &spec, 0);
            result = sigwaitinfo(&set, &info) == SIGUSR1 ? 0 : errno;
            timer_delete(timer);
        }
        if (!strcmp(how, "signal")) { /* a signal ends a wait that is far from over */
            struct sigaction action = {.sa_handler = ring};
            struct itimerval alarm = {.it_value = {0, 75000}};
            sigaction(SIGALRM, &action, 0);
            setitimer(ITIMER_REAL, &alarm, 0);
            until = copy = in_ms(CLOCK_REALTIME, 60000);
            result = clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, 0);
        }
    }
    usleep(20000);
    int tenths = (int)((since(begin) - 0.02) * 10);
    for (int turn = 0; turn < 500 && memcmp(&until, &copy, sizeof copy); turn++)
        usleep(10000); /* it is put back when the supervisor gets a processor */
    printf("%d %d %d\n", result, tenths, !memcmp(&until, &copy, sizeof copy) && !memcmp(&spec.it_value, !strcmp(how, "tai") || !strcmp(how, "signal") ? (void *)&spec.it_value : (void *)&copy, sizeof copy));
}

int main(int argc, char **argv)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    if (!strcmp(argv[1], "tell")) tell();
    else if (!strcmp(argv[1], "bad")) {
        struct timespec t = {-1, 0};
        printf("%d", clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, 0));
        t.tv_sec = 5;
        t.tv_nsec = 1000000000;
        printf(" %d", clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, 0));
        printf(" %ld\n", syscall(SYS_clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, 8, 0) ? (long)errno : 0);
    } else wait_for(argv[1]);
    return 0;
}
