/* Seeks a userfaultfd of its own while it is watched. Tells "won" or "nothing" for each line that it reads.
 *
 *   threads  two threads call userfaultfd(2) all the time, with the flags that a tracker's call has
 *   memory   so does a process that shares its memory, and is no thread
 *   files    a process that shares its table of descriptors, and is below nobody, copies what appears there
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int *won;

static int call(void *unused)
{
    for (;;) {
        if (syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY) >= 0)
            *won = 1;
        sched_yield();
    }
    return unused != 0;
}

static void *thread(void *unused)
{
    call(unused);
    return 0;
}

static int copy(int lowest)
{
    for (;;) {
        int got = fcntl(lowest, F_DUPFD_CLOEXEC, 100);
        if (got < 0)
            continue;
        struct uffdio_api api = {.api = UFFD_API};
        if (ioctl(got, UFFDIO_API, &api) == 0 || errno == EINVAL) /* any other file answers ENOTTY */
            *won = 1;
        close(got);
    }
}

static int share_files(void *lowest)
{
    /* The middle one, whose end makes the last one nobody's. */
    if (syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0) == 0)
        copy(*(int *)lowest);
    _exit(0);
}

int main(int argc, char **argv)
{
    static char stack[1 << 16] __attribute__((aligned(16)));
    char line[16];
    won = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (argc < 2 || won == MAP_FAILED)
        return 2;
    if (!strcmp(argv[1], "threads")) {
        pthread_t id;
        for (int i = 0; i < 2; i++)
            pthread_create(&id, 0, thread, 0);
    } else if (!strcmp(argv[1], "memory")) {
        if (clone(call, stack + sizeof stack, CLONE_VM | SIGCHLD, 0) < 0)
            return 3;
    } else {
        int lowest = dup(0);
        close(lowest); /* where the next descriptor of the process appears */
        int middle = clone(share_files, stack + sizeof stack, CLONE_FILES | SIGCHLD, &lowest);
        if (middle < 0 || waitpid(middle, 0, 0) < 0)
            return 3;
    }
    setvbuf(stdout, 0, _IONBF, 0);
    while (fgets(line, sizeof line, stdin))
        puts(*won ? "won" : "nothing");
    kill(0, SIGKILL);
    return 0;
}
