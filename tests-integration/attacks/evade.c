/* Ways round a filter that need more than one call.
 *
 *   evade uring PATH       open PATH through an io_uring
 *   evade uring-socket     make a UDP socket through an io_uring
 *   evade clone3 FLAGS     clone3 with the flags behind the pointer; the new process exits at once
 *   evade clone FLAGS      the same by clone
 *   evade descriptors      every open descriptor, and whether it is a seccomp listener
 *   evade parent STATUS    a process beside us (CLONE_PARENT) exits with STATUS before we exit 0
 *   evade traceme          PTRACE_TRACEME, then a stop
 *   evade lease PATH, evade watch PATH, evade dnotify PATH
 */
#define _GNU_SOURCE
#include "report.h"
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define OP_SOCKET 45                     /* linux/io_uring.h, 5.19 */
#define NOTIF_ID_VALID 0x40082102UL      /* linux/seccomp.h, 5.17 value */

static void uring(struct io_uring_sqe *wanted)
{
    struct io_uring_params parameters = {0};
    long ring = syscall(SYS_io_uring_setup, 4, &parameters);
    if (report("uring_setup", ring) < 0)
        return;
    char *sq = mmap(NULL, parameters.sq_off.array + 64, 3, MAP_SHARED, (int)ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entries = mmap(NULL, 4 * sizeof *entries, 3, MAP_SHARED, (int)ring, IORING_OFF_SQES);
    char *cq = mmap(NULL, parameters.cq_off.cqes + 8 * sizeof(struct io_uring_cqe), 3, MAP_SHARED, (int)ring, IORING_OFF_CQ_RING);
    if (sq == MAP_FAILED || entries == MAP_FAILED || cq == MAP_FAILED) {
        report("uring_map", -1);
        return;
    }
    entries[0] = *wanted;
    ((unsigned *)(sq + parameters.sq_off.array))[0] = 0;
    __atomic_store_n((unsigned *)(sq + parameters.sq_off.tail), 1, __ATOMIC_RELEASE);
    if (report("uring_enter", syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0)) < 0)
        return;
    int result = ((struct io_uring_cqe *)(cq + parameters.cq_off.cqes))->res;
    errno = result < 0 ? -result : 0;
    report("uring_result", result < 0 ? -1 : result);
}

static void clone_three(unsigned long flags)
{
    struct clone_args arguments = {.flags = flags, .exit_signal = SIGCHLD};
    long child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0)
        _exit(0);
    report("clone3", child);
}

static void clone_one(unsigned long flags)
{
    long child = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        _exit(0);
    report("clone", child);
}

static void descriptors(void)
{
    for (int fd = 0; fd < 65536; fd++) {
        struct stat what;
        char name[64];
        unsigned long long id = 0;
        if (fstat(fd, &what) != 0)
            continue;
        snprintf(name, sizeof name, "fd_%d", fd);
        report(name, (long)(what.st_mode & S_IFMT));
        /* A listener answers ENOENT to an unknown id; nothing else knows the request. */
        if (ioctl(fd, NOTIF_ID_VALID, &id) == 0 || errno == ENOENT)
            report("listener", fd);
    }
}

static void beside(int status)
{
    long child = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        _exit(status);
    report("clone_parent", child);
    usleep(100000);
}

static void names_of(const char *path)
{
    char buffer[4096];
    int fd = inotify_init1(0);
    report("watch", fd < 0 ? fd : inotify_add_watch(fd, path, IN_ALL_EVENTS));
    if (write(2, "ready\n", 6) != 6)
        return;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 40; i++, usleep(25000)) {
        ssize_t n = read(fd, buffer, sizeof buffer);
        if (n > 0) {
            struct inotify_event *event = (struct inotify_event *)buffer;
            printf("%s 1 0\n", event->len != 0 ? event->name : "event");
            return;
        }
    }
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "", *argument = argc > 2 ? argv[2] : "";
    if (strcmp(verb, "uring") == 0)
        uring(&(struct io_uring_sqe){.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (unsigned long)argument});
    else if (strcmp(verb, "uring-socket") == 0)
        uring(&(struct io_uring_sqe){.opcode = OP_SOCKET, .fd = AF_INET, .off = SOCK_DGRAM});
    else if (strcmp(verb, "clone3") == 0)
        clone_three(strtoul(argument, NULL, 0));
    else if (strcmp(verb, "clone") == 0)
        clone_one(strtoul(argument, NULL, 0));
    else if (strcmp(verb, "descriptors") == 0)
        descriptors();
    else if (strcmp(verb, "parent") == 0)
        beside(atoi(argument));
    else if (strcmp(verb, "traceme") == 0) {
        report("traceme", ptrace(PTRACE_TRACEME, 0, NULL, NULL));
        raise(SIGSTOP);
        report("went_on", 0);
    } else if (strcmp(verb, "lease") == 0) {
        int fd = open(argument, O_RDONLY);
        report("lease_open", fd);
        report("lease", fcntl(fd, F_SETLEASE, F_RDLCK));
    } else if (strcmp(verb, "dnotify") == 0) {
        int fd = open(argument, O_RDONLY | O_DIRECTORY);
        report("dnotify_open", fd);
        report("dnotify", fcntl(fd, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
    } else if (strcmp(verb, "watch") == 0)
        names_of(argument);
    else
        return 2;
    return 0;
}
