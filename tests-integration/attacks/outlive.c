/* Processes that want to stay, to multiply, or not to end. Each ends by itself after SECONDS, whatever happens.
 *
 *   outlive daemon MARK SECONDS     double fork, own session, all signals ignored, descriptors closed; we exit 7
 *   outlive holder MARK SECONDS     the same, with stdout and stderr kept open
 *   outlive family MARK SECONDS     twenty such daemons, some stopped, some subreapers, some without a death signal
 *   outlive family MARK SECONDS stay   and we stay too
 *   outlive stubborn MARK SECONDS   ignores every signal that can be ignored
 *   outlive comet MARK SECONDS      forks and ends, forks and ends: no pid of it lives long
 *   outlive bomb MARK SECONDS       while (1) fork(); says how many it made, by the errno of the first refusal
 *   outlive leaderless MARK SECONDS the first thread ends, another one stays
 *   outlive orphans COUNT           that many children of children, ended before they are anyone's
 *   outlive stop                    stops itself
 */
#define _GNU_SOURCE
#include "report.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

static time_t end_at;

static time_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

static void linger(void)
{
    while (now() < end_at)
        usleep(20000);
    _exit(0);
}

static void ignore_all(void)
{
    for (int number = 1; number < 65; number++)
        signal(number, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
}

static void make_daemon(int keep_output, int kind)
{
    if (fork() != 0) {
        wait(NULL);
        return;
    }
    setsid();
    if (fork() != 0)
        _exit(0);
    setsid();
    ignore_all();
    prctl(PR_SET_PDEATHSIG, 0);
    if (kind % 3 == 1)
        prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (int fd = 0; fd < 1024; fd++)
        if (!keep_output || fd == 0 || fd > 2)
            close(fd);
    if (kind % 3 == 2)
        raise(SIGSTOP);
    linger();
}

static void comet(void)
{
    while (now() < end_at) {
        pid_t child = fork();
        if (child > 0)
            _exit(0);
        if (child < 0)
            usleep(100);
        else
            prctl(PR_SET_PDEATHSIG, 0);
    }
    _exit(0);
}

static void bomb(void)
{
    int made = 0, told = 0;
    pid_t first = getpid();
    while (now() < end_at) {
        if (fork() >= 0)
            made++;
        else if (getpid() == first && !told++)
            report("bomb", -1);
        else
            usleep(1000);
    }
    _exit(0);
}

static void *second(void *unused)
{
    usleep(50000);
    report("second_thread", 0);
    linger();
    return unused;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    end_at = now() + (argc > 3 ? atoi(argv[3]) : 5);
    alarm(argc > 3 ? (unsigned)atoi(argv[3]) + 1 : 30);
    if (strcmp(verb, "daemon") == 0)
        make_daemon(0, 0);
    else if (strcmp(verb, "holder") == 0)
        make_daemon(1, 0);
    else if (strcmp(verb, "family") == 0)
        for (int kind = 0; kind < 20; kind++)
            make_daemon(kind % 2, kind);
    else if (strcmp(verb, "stubborn") == 0) {
        ignore_all();
        report("ready", 0);
        linger();
    } else if (strcmp(verb, "comet") == 0) {
        for (int i = 0; i < 3; i++)
            if (fork() == 0)
                comet();
        report("ready", 0);
        linger();
    } else if (strcmp(verb, "bomb") == 0)
        bomb();
    else if (strcmp(verb, "leaderless") == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, second, NULL);
        syscall(SYS_exit, 0);
    } else if (strcmp(verb, "orphans") == 0) {
        for (int i = 0; i < atoi(argv[2]); i++) {
            if (fork() == 0) {
                if (fork() == 0) {
                    usleep(2000);
                    _exit(0);
                }
                _exit(0);
            }
            wait(NULL);
        }
        usleep(50000);
        report("orphans", atoi(argv[2]));
        return 0;
    } else if (strcmp(verb, "stop") == 0) {
        raise(SIGSTOP);
        report("went_on", 0);
        return 0;
    } else
        return 2;
    if (argc > 4)
        linger();
    usleep(50000);
    return 7;
}
