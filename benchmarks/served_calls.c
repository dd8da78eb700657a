/* Times served system calls from inside. `call N [P]`: P processes call getppid N times each, and print nanoseconds per
 * call of all together. `floor N [P]`: the same, under a filter of its own, served by a loop in C in this program.
 * `open N [P]`: they open and close / instead, and the loop answers the open with an fd. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SET_FLAGS _IOW('!', 4, __u64)

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static int opens;

static void one(void)
{
    if (opens)
        close((int)syscall(SYS_openat, AT_FDCWD, "/", O_RDONLY));
    else
        syscall(SYS_getppid);
}

static void calls(long count, int processes)
{
    for (int i = 0; i < 1000; i++)
        one();
    double start = now();
    for (int i = 1; i < processes; i++)
        if (fork() == 0) {
            for (long k = 0; k < count; k++)
                one();
            _exit(0);
        }
    for (long k = 0; k < count; k++)
        one();
    while (wait(0) > 0)
        ;
    printf("%.1f\n", (now() - start) / (count * processes));
    fflush(stdout);
}

static int serve(int listener)
{
    struct seccomp_notif request;
    struct seccomp_notif_resp response;
    int given = open("/", O_RDONLY);
    ioctl(listener, SET_FLAGS, 1UL);
    for (;;) {
        memset(&request, 0, sizeof request);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0) {
            if (errno == EINTR || errno == ENOENT)
                continue;
            return 0;
        }
        if (opens) {
            struct seccomp_notif_addfd fd = {.id = request.id, .flags = SECCOMP_ADDFD_FLAG_SEND, .srcfd = (__u32)given};
            ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &fd);
            continue;
        }
        memset(&response, 0, sizeof response);
        response.id = request.id;
        response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
    }
}

int main(int argc, char **argv)
{
    long count = argc > 2 ? atol(argv[2]) : 100000;
    int processes = argc > 3 ? atoi(argv[3]) : 1;
    if (argc > 1 && !strcmp(argv[1], "call")) {
        calls(count, processes);
        return 0;
    }
    opens = argc > 1 && !strcmp(argv[1], "open");
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, opens ? SYS_openat : SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    int numbers[2];
    if (pipe(numbers))
        return 1;
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        int fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
        if (write(numbers[1], &fd, sizeof fd) != sizeof fd)
            return 1;
        calls(count, processes);
        return 0;
    }
    int fd;
    if (read(numbers[0], &fd, sizeof fd) != sizeof fd)
        return 1;
    int pidfd = syscall(SYS_pidfd_open, child, 0);
    int listener = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    pid_t server = fork();
    if (server == 0)
        return serve(listener); /* until it is killed */
    waitpid(child, 0, 0);
    kill(server, SIGKILL);
    waitpid(server, 0, 0); /* so that its cpu time is told to who measures it */
    return 0;
}
