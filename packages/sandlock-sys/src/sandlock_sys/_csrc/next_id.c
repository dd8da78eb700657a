/* Which id a pid namespace gives next. Only a process in it may say that, with rights over it: one is made for that. It
 * is a copy of a host that may have threads, and makes system calls and nothing else. */
#include "next_id.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>

#include "raw.h"

#define LAST_ID "/proc/sys/kernel/ns_last_pid" /* 3.3; the namespace is the writer's, wherever /proc is of */
#define WAIT_CLONE 0x80000000U                 /* __WCLONE, linux/wait.h: no child of whoever waits for any */
#define UNKNOWN 255

/* Ends the process with what it came to: 0, or an errno, all of which are small. */
static void finish(long result)
{
    long code = result < 0 ? -result : 0;
    for (;;)
        RAW(__NR_exit_group, code < UNKNOWN ? code : UNKNOWN);
}

/* Waits for a child that finishes so. */
static long result_of(long child)
{
    int status = 0;
    long result;
    if (child < 0)
        return child;
    do
        result = RAW(__NR_wait4, child, &status, WAIT_CLONE, 0);
    while (result == -EINTR);
    if (result < 0)
        return result;
    return status & 0x7f ? -EIO : -(long)(status >> 8 & 0xff);
}

static long write_last(const char *digits, size_t length)
{
    long fd = RAW(__NR_openat, AT_FDCWD, LAST_ID, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    long result = RAW(__NR_write, fd, digits, length);
    return result < 0 ? result : 0;
}

static long write_inside(int user_ns, int pid_ns, const char *digits, size_t length)
{
    long result = user_ns < 0 ? 0 : RAW(__NR_setns, user_ns, CLONE_NEWUSER);
    if (result >= 0)
        result = RAW(__NR_setns, pid_ns, CLONE_NEWPID);
    if (result < 0)
        return result;
    long child = RAW(__NR_clone, 0, 0, 0, 0, 0); /* the first that is inside */
    if (child == 0)
        finish(write_last(digits, length));
    return result_of(child);
}

long sl_set_last_id(int user_ns, int pid_ns, const char *digits, size_t length)
{
    long child = RAW(__NR_clone, 0, 0, 0, 0, 0);
    if (child == 0)
        finish(write_inside(user_ns, pid_ns, digits, length));
    return result_of(child);
}
