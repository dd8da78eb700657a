/* The guard: parent and subreaper of one sandbox, a static program without a libc.
 *
 *   sandlock-guard CHILD-PID HOST-PID scope|walk        fd 0: the control socket
 *
 * It waits for three things. The first process ends, or the host asks, or the host is gone (its pidfd or the control
 * socket says so, SIGKILL included): then every process of the sandbox is killed and reaped, the totals are reported,
 * and the guard ends. It lives in the sandbox's outer Landlock domain, so `kill(-1)` reaches the sandbox and nothing
 * else, which is proved before it is relied on; the program inside lives in a nested domain and cannot reach the guard.
 */
#include "guard.h"

#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <stddef.h>

#include "raw.h"

#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434 /* 5.3 */
#endif

enum {
    CONTROL = 0,
    SIGNAL_KILL = 9, SIGNAL_CHILD = 17, SIGNALS = 64, SIGSET_BYTES = 8,
    BLOCK_SET = 0, /* SIG_BLOCK */
    NO_HANG = 1, ALL_CHILDREN = 0x40000000, /* WNOHANG, __WALL */
    ERR_EPERM = 1, ERR_EINTR = 4, ERR_EAGAIN = 11, ERR_ECHILD = 10,
    READABLE = 1, HANGUP = 0x10 | 0x08, /* POLLIN; POLLHUP | POLLERR */
    DONT_WAIT = 0x40, NO_SIGNAL = 0x4000, /* MSG_DONTWAIT, MSG_NOSIGNAL */
    TICK_NS = 1000 * 1000,
    MAX_PROCESSES = 1 << 15,
};

struct timespec64 { int64_t seconds, nanoseconds; };
struct poll_fd { int32_t fd; int16_t events, returned; };
struct timeval64 { int64_t seconds, microseconds; };
struct usage { struct timeval64 user, system; int64_t peak_kib, rest[13]; };
struct directory_entry { uint64_t inode; int64_t offset; uint16_t length; uint8_t type; char name[]; };

_Static_assert(sizeof(struct usage) == 144, "struct rusage");

struct guard {
    int child, host, scoped, main_gone;
    int host_pidfd, signals;
    struct sl_report report;
};

static struct process { int pid, parent; char ours; } table[MAX_PROCESSES];

static int number(const char *text)
{
    int value = 0;
    while (*text >= '0' && *text <= '9')
        value = value * 10 + (*text++ - '0');
    return value;
}

static long read_file(const char *path, char *buffer, long size)
{
    long fd = RAW(__NR_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    long got = RAW(__NR_read, fd, buffer, size - 1);
    RAW(__NR_close, fd);
    buffer[got > 0 ? got : 0] = 0;
    return got;
}

static int parent_of(const char *name)
{
    char path[32] = "/proc/", buffer[512];
    int at = 6;
    for (const char *c = name; *c && at < 24; c++)
        path[at++] = *c;
    for (const char *c = "/stat"; *c; c++)
        path[at++] = *c;
    path[at] = 0;
    if (read_file(path, buffer, sizeof buffer) <= 0)
        return -1;
    const char *end = NULL; /* the name in parentheses may hold anything: count from the last one */
    for (const char *c = buffer; *c; c++)
        if (*c == ')')
            end = c;
    if (!end || end[1] != ' ' || !end[2] || end[3] != ' ' || end[2] == 'Z')
        return -1;
    return number(end + 4);
}

static int list_processes(void)
{
    char entries[8192];
    int count = 0;
    long got, fd = RAW(__NR_openat, AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    while ((got = RAW(__NR_getdents64, fd, entries, sizeof entries)) > 0)
        for (long at = 0; at < got;) {
            struct directory_entry *entry = (struct directory_entry *)(entries + at);
            at += entry->length;
            if (entry->name[0] < '1' || entry->name[0] > '9' || count == MAX_PROCESSES)
                continue;
            table[count].pid = number(entry->name);
            table[count].parent = parent_of(entry->name);
            table[count].ours = 0;
            count++;
        }
    RAW(__NR_close, fd);
    return count;
}

static int signal_by_walk(int signal)
{
    /* Every process of the tree descends from the guard, and orphans come to it: it is the subreaper. */
    int self = (int)RAW(__NR_getpid), found = 0, grew = 1, count = list_processes();
    while (grew) {
        grew = 0;
        for (int i = 0; i < count; i++) {
            if (table[i].ours || table[i].parent < 0)
                continue;
            int ours = table[i].parent == self;
            for (int j = 0; j < count && !ours; j++)
                ours = table[j].ours && table[j].pid == table[i].parent;
            if (ours)
                table[i].ours = 1, grew = 1;
        }
    }
    for (int i = 0; i < count; i++)
        if (table[i].ours && RAW(__NR_kill, table[i].pid, signal) == 0)
            found++;
    return found;
}

static void signal_all(struct guard *guard, int signal)
{
    if (guard->scoped)
        RAW(__NR_kill, -1, signal); /* atomic: no fork slips through it */
    else
        signal_by_walk(signal);
}

static void reap(struct guard *guard, int *alive)
{
    struct usage usage;
    int status;
    for (;;) {
        long pid = RAW(__NR_wait4, -1, &status, NO_HANG | ALL_CHILDREN, &usage);
        *alive = pid != -ERR_ECHILD;
        if (pid <= 0)
            return;
        struct sl_report *report = &guard->report;
        report->reaped++;
        report->user_us += (uint64_t)(usage.user.seconds * 1000000 + usage.user.microseconds);
        report->system_us += (uint64_t)(usage.system.seconds * 1000000 + usage.system.microseconds);
        if ((uint64_t)usage.peak_kib > report->peak_kib)
            report->peak_kib = (uint64_t)usage.peak_kib;
        if (pid == guard->child) {
            guard->main_gone = 1;
            report->status = status;
        }
    }
}

static void tell(struct guard *guard)
{
    /* The host waits for the guard's end and reads this then: one wake-up, not two. */
    RAW(__NR_sendto, CONTROL, &guard->report, sizeof guard->report, DONT_WAIT | NO_SIGNAL, 0, 0);
}

static void end(struct guard *guard)
{
    int alive = 1;
    for (int ticks = 0;; ticks++) {
        reap(guard, &alive);
        if (!alive)
            break; /* orphans come to the guard, so no child means no process at all */
        if (ticks == 0 || !guard->scoped)
            signal_all(guard, SIGNAL_KILL);
        struct poll_fd ready = {.fd = guard->signals, .events = READABLE};
        struct timespec64 tick = {0, TICK_NS};
        RAW(__NR_ppoll, &ready, 1, &tick, 0, 0);
        char drained[128];
        if (ready.returned & READABLE)
            RAW(__NR_read, guard->signals, drained, sizeof drained);
    }
    tell(guard);
    RAW(__NR_exit_group, 0);
}

static void obey(struct guard *guard)
{
    struct sl_order order;
    long got = RAW(__NR_recvfrom, CONTROL, &order, sizeof order, DONT_WAIT, 0, 0);
    if (got == -ERR_EAGAIN || got == -ERR_EINTR)
        return;
    if (got != sizeof order || order.kind == SL_ORDER_KILL)
        end(guard); /* a closed socket or a message that no host of ours sends: refuse to go on */
    if (order.kind == SL_ORDER_SIGNAL_ALL)
        signal_all(guard, order.signal);
    else if (order.kind == SL_ORDER_SIGNAL_MAIN && !guard->main_gone)
        RAW(__NR_kill, guard->child, order.signal); /* not yet reaped, so the pid is still its own */
}

static void prepare(struct guard *guard)
{
    uint64_t every = ~0ULL, child = 1ULL << (SIGNAL_CHILD - 1);
    RAW(__NR_rt_sigprocmask, BLOCK_SET, &every, 0, SIGSET_BYTES);
    guard->signals = (int)RAW(__NR_signalfd4, -1, &child, SIGSET_BYTES, O_CLOEXEC | O_NONBLOCK);
    guard->host_pidfd = (int)RAW(__NR_pidfd_open, guard->host, 0);
    int host_there = RAW(__NR_getppid) == guard->host;
    RAW(__NR_prctl, PR_SET_PDEATHSIG, 0, 0, 0, 0); /* it follows the launching thread, which may end before the host */
    /* The proof: an outside process that was reachable before the domain must be out of reach in it. */
    int proved = RAW(__NR_kill, guard->host, 0) == -ERR_EPERM;
    if (guard->scoped && !proved)
        guard->scoped = 0;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    RAW(__NR_capset, &header, none);
    if (guard->signals < 0 || guard->host_pidfd < 0 || !host_there)
        end(guard);
}

__attribute__((used)) void guard_start(long *stack)
{
    const char *const *argv = (const char *const *)(stack + 1);
    struct guard guard = {0};
    if (stack[0] != 4)
        RAW(__NR_exit_group, 64);
    guard.child = number(argv[1]);
    guard.host = number(argv[2]);
    guard.scoped = argv[3][0] == 's';
    prepare(&guard);
    for (;;) {
        int alive;
        reap(&guard, &alive);
        if (guard.main_gone || !alive)
            end(&guard);
        struct poll_fd ready[] = {{CONTROL, READABLE, 0}, {guard.host_pidfd, READABLE, 0}, {guard.signals, READABLE, 0}};
        long result = RAW(__NR_ppoll, ready, 3, 0, 0, 0);
        if (result < 0 && result != -ERR_EINTR)
            end(&guard);
        if (ready[1].returned)
            end(&guard);
        if (ready[0].returned)
            obey(&guard);
        if (ready[2].returned & READABLE) {
            char drained[128];
            RAW(__NR_read, guard.signals, drained, sizeof drained);
        }
    }
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call guard_start\n ud2\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x0, sp\n bl guard_start\n brk #0\n");
#elif defined(__riscv)
__asm__(".globl _start\n_start:\n.option push\n.option norelax\n la gp, __global_pointer$\n.option pop\n"
        " mv a0, sp\n call guard_start\n ebreak\n");
#endif
