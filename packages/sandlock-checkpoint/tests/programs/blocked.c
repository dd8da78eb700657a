/* Blocks in one system call (argv[1]) until a thread sees the file argv[2] and ends the wait; says how the call ended. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char *flag;
static const char *mode;
static int ends[2], queue, other;
static int word;
static pthread_t main_thread;
static struct timespec began;

static int is(const char *name) { return !strcmp(mode, name); }

static void handler(int signal) { (void)signal; }

static void *waker(void *unused)
{
    (void)unused;
    while (access(flag, F_OK))
        usleep(10000);
    if (is("flock"))
        flock(other, LOCK_UN);
    else if (is("msgrcv")) {
        struct { long type; char text; } message = {1, 'x'};
        msgsnd(queue, &message, 1, 0);
    } else if (is("semop")) {
        struct sembuf up = {0, 1, 0};
        semop(queue, &up, 1);
    } else if (is("sigtimedwait") || is("sigwaitinfo") || is("pause") || is("sigsuspend"))
        pthread_kill(main_thread, SIGUSR1);
    else if (!strncmp(mode, "futex", 5)) {
        word = 1;
        syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0);
    } else if (write(ends[1], "12345678", 8) != 8)
        _exit(3);
    return NULL;
}

static long block(void)
{
    struct timespec minute = {60, 0}, two = {2, 0}, left;
    struct epoll_event event = {.events = EPOLLIN}, got;
    struct pollfd polled = {.fd = ends[0], .events = POLLIN};
    struct timeval minute_tv = {60, 0};
    char buffer[64];
    sigset_t set, none;
    fd_set fds;
    int epoll = epoll_create1(0);
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    FD_ZERO(&fds);
    FD_SET(ends[0], &fds);
    epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event);
    if (is("read") || is("read_socket") || is("read_eventfd"))
        return read(ends[0], buffer, 8);
    if (is("recvmsg"))
        return recv(ends[0], buffer, 8, 0);
    if (is("futex"))
        return syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
    if (is("futex_timed"))
        return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &minute, NULL, 0);
    if (is("epoll_wait"))
        return epoll_wait(epoll, &got, 1, -1);
    if (is("epoll_wait_timed"))
        return epoll_wait(epoll, &got, 1, 60000);
    if (is("epoll_pwait"))
        return epoll_pwait(epoll, &got, 1, -1, &none);
    if (is("poll"))
        return poll(&polled, 1, -1);
    if (is("poll_timed"))
        return poll(&polled, 1, 60000);
    if (is("ppoll"))
        return ppoll(&polled, 1, &minute, &none);
    if (is("select"))
        return select(ends[0] + 1, &fds, NULL, NULL, &minute_tv);
    if (is("pselect"))
        return pselect(ends[0] + 1, &fds, NULL, NULL, NULL, &none);
    if (is("nanosleep"))
        return nanosleep(&two, &left);
    if (is("nanosleep_no_rest"))
        return nanosleep(&two, NULL);
    if (is("clock_nanosleep"))
        return clock_nanosleep(CLOCK_MONOTONIC, 0, &two, &left);
    if (is("clock_nanosleep_absolute")) {
        two.tv_sec += began.tv_sec;
        two.tv_nsec = began.tv_nsec;
        return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &two, NULL);
    }
    if (is("sigtimedwait"))
        return sigtimedwait(&set, NULL, &minute) == SIGUSR1 ? 1 : -1;
    if (is("sigwaitinfo"))
        return sigwaitinfo(&set, NULL) == SIGUSR1 ? 1 : -1;
    if (is("pause"))
        return pause() == -1 && errno == EINTR ? 1 : -1;
    if (is("sigsuspend"))
        return sigsuspend(&none) == -1 && errno == EINTR ? 1 : -1;
    if (is("msgrcv"))
        return msgrcv(queue, buffer, 8, 0, 0);
    if (is("semop")) {
        struct sembuf down = {0, -1, 0};
        return semop(queue, &down, 1);
    }
    if (is("flock"))
        return flock(ends[0], LOCK_EX);
    _exit(4);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 5;
    mode = argv[1];
    flag = argv[2];
    main_thread = pthread_self();
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, NULL);
    if (is("sigtimedwait") || is("sigwaitinfo") || is("sigsuspend")) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
    }
    if (is("read_socket") || is("recvmsg"))
        socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    else if (is("read_eventfd"))
        ends[0] = ends[1] = eventfd(0, 0);
    else if (is("flock")) {
        ends[0] = open(argv[0], O_RDONLY);
        other = open(argv[0], O_RDONLY);
        flock(other, LOCK_EX);
    } else if (pipe(ends))
        return 6;
    if (is("msgrcv"))
        queue = msgget(IPC_PRIVATE, 0600);
    if (is("semop"))
        queue = semget(IPC_PRIVATE, 1, 0600);
    clock_gettime(CLOCK_MONOTONIC, &began);
    printf("ready %d\n", queue);
    fflush(stdout);
    pthread_t thread;
    if (!strstr(mode, "nanosleep"))
        pthread_create(&thread, NULL, waker, NULL);
    errno = 0;
    long result = block();
    int error = errno;
    int early = !strstr(mode, "nanosleep") && access(flag, F_OK);
    printf("%s %ld %d\n", early ? "early" : "ended", result, result < 0 ? error : 0);
    fflush(stdout);
    return 0;
}
