/* The guard's loop: wait for the end of the first process, an order, or the end of the host; then end everything.
 *
 * Included by both forms of the guard: spawn.c runs it in the host's memory while the sandbox is young, where a short
 * run never pays for an exec; guard_main.c is the program that the guard becomes when the sandbox lives on, so that
 * neither the host's memory nor an out-of-memory kill of the host hangs on it. Raw calls only.
 *
 * The guard lives in the sandbox's outer Landlock domain, so `kill(-1)` reaches the sandbox and nothing else, which is
 * proved before it is relied on; the program inside lives in a nested domain and cannot reach the guard.
 */
#ifndef SANDLOCK_GUARD_LOOP_H
#define SANDLOCK_GUARD_LOOP_H

#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <stddef.h>

#include "guard.h"
#include "raw.h"

#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434 /* 5.3 */
#endif

enum {
    GUARD_CONTROL = 0, /* the control socket */
    GUARD_KILL = 9, GUARD_CHILD = 17, GUARD_STOP = 19, GUARD_SIGSET_BYTES = 8, /* SIGKILL, SIGCHLD, SIGSTOP */
    /* SIGTTOU stands for SIGSTOP on the way through init, which must not stop itself. The kernel lets a waiting stop signal
     * and a waiting SIGCONT cancel each other, so the last order wins. */
    GUARD_STOP_ORDER = 22,
    GUARD_BLOCK = 0, /* SIG_BLOCK */
    GUARD_NO_HANG = 1, GUARD_ANY_CHILD = 0x40000000, /* WNOHANG, __WALL */
    GUARD_STOPPED = 0x7f, /* WIFSTOPPED */
    GUARD_REAPS = 64,
    GUARD_TURNS = 1024,
    GUARD_STOPS = 64,
    GUARD_EPERM = 1, GUARD_ESRCH = 3, GUARD_EINTR = 4, GUARD_ECHILD = 10, GUARD_EAGAIN = 11,
    GUARD_READABLE = 1, /* POLLIN */
    GUARD_DONT_WAIT = 0x40, GUARD_NO_SIGNAL = 0x4000, /* MSG_DONTWAIT, MSG_NOSIGNAL */
    GUARD_TICK_NS = 1000 * 1000,
    GUARD_MONOTONIC = 1, /* CLOCK_MONOTONIC */
    GUARD_PROGRAM = 1,   /* the fd of the guard program, until it is executed */
};

struct guard_timespec { int64_t seconds, nanoseconds; };
struct guard_poll { int32_t fd; int16_t events, returned; };
struct guard_timeval { int64_t seconds, microseconds; };
struct guard_usage { struct guard_timeval user, system; int64_t peak_kib, rest[13]; };

_Static_assert(sizeof(struct guard_usage) == 144, "struct rusage");

/* How all processes of the tree are reached. */
enum guard_reach {
    GUARD_SCOPE, /* kill(-1), which stops at the border of the Landlock domain */
    GUARD_WALK,  /* no signal scope: they are found by walking /proc */
    GUARD_INIT,  /* they live in a pid namespace, and end with its init */
};

struct guard {
    int child, host;
    int init;           /* with GUARD_INIT, until it is reaped; then 0 */
    enum guard_reach reach;
    int main_gone;
    int host_pidfd, signals;
    uint64_t floor_kib; /* the host's own peak at the launch: the kernel counts it for the first process as well */
    struct sl_report report;
};

/* Signal every process of the tree when there is no scope; only the program can. */
static int guard_walk(int signal);

static void guard_signal_all(struct guard *guard, int signal)
{
    if (guard->reach == GUARD_WALK)
        guard_walk(signal);
    else if (guard->reach == GUARD_SCOPE)
        RAW(__NR_kill, -1, signal); /* atomic: no fork slips through it */
    else if (guard->init) /* not yet reaped, so the pid is still its own; no scope here: never kill(-1) */
        RAW(__NR_kill, guard->init, signal == GUARD_STOP ? GUARD_STOP_ORDER : signal);
}

/* Reap what has ended; 1 when there may be more. One pass is bounded: orphans can be made to die faster than they are
 * reaped, and the guard must hear its orders all the same. */
static int guard_reap(struct guard *guard, int *alive)
{
    struct guard_usage usage;
    int status;
    for (int count = 0; count < GUARD_REAPS; count++) {
        long pid = RAW(__NR_wait4, -1, &status, GUARD_NO_HANG | GUARD_ANY_CHILD, &usage);
        *alive = pid >= 0 || pid == -GUARD_EINTR; /* no child is left, or an outer filter forbids to ask: then end */
        if (pid <= 0)
            return 0;
        if ((status & 0xff) == GUARD_STOPPED)
            continue; /* a child that made the guard its tracer has stopped, not ended */
        struct sl_report *report = &guard->report;
        report->reaped += pid != guard->init;
        report->user_us += (uint64_t)(usage.user.seconds * 1000000 + usage.user.microseconds);
        report->system_us += (uint64_t)(usage.system.seconds * 1000000 + usage.system.microseconds);
        if ((uint64_t)usage.peak_kib > guard->floor_kib && (uint64_t)usage.peak_kib > report->peak_kib)
            report->peak_kib = (uint64_t)usage.peak_kib;
        if (pid == guard->init)
            guard->init = 0; /* the kernel has killed all others by now */
        if (pid == guard->child) {
            guard->main_gone = 1;
            report->status = status;
        }
    }
    return 1;
}

static void guard_drain(struct guard *guard)
{
    char drained[128]; /* one struct signalfd_siginfo */
    RAW(__NR_read, guard->signals, drained, sizeof drained);
}

static void guard_end(struct guard *guard)
{
    int alive = 1;
    for (int ticks = 0;; ticks++) {
        int more = guard_reap(guard, &alive);
        /* A walk looks at every zombie, so there should be few of them; here is no order left to hear meanwhile. */
        for (int turns = 0; more && guard->reach == GUARD_WALK && turns < GUARD_TURNS; turns++)
            more = guard_reap(guard, &alive);
        if (!alive && guard->main_gone)
            break; /* orphans come to the guard, so no child means no process at all */
        /* Its group first, in one call: a bomb leaves the guard little time to walk. While the first process is not
         * reaped, the number is its own. */
        if (guard->reach == GUARD_WALK && !guard->main_gone)
            RAW(__NR_kill, -guard->child, GUARD_STOP);
        /* Who is stopped does not fork while the others are found, and keeps its place in the user's limit. */
        for (int turns = 0; guard->reach == GUARD_WALK && turns < GUARD_STOPS && guard_walk(GUARD_STOP); turns++)
            ;
        if (ticks == 0 || guard->reach == GUARD_WALK)
            guard_signal_all(guard, GUARD_KILL);
        if (!alive) {
            RAW(__NR_exit_group, 1); /* killed, unseen: no report, and the host says that the guard was lost */
            return;
        }
        if (more)
            continue;
        struct guard_poll ready = {.fd = guard->signals, .events = GUARD_READABLE};
        struct guard_timespec tick = {0, GUARD_TICK_NS};
        RAW(__NR_ppoll, &ready, 1, &tick, 0, 0);
        if (ready.returned & GUARD_READABLE)
            guard_drain(guard);
    }
    /* The host waits for the guard's end and reads this then: one wake-up, not two. */
    RAW(__NR_sendto, GUARD_CONTROL, &guard->report, sizeof guard->report, GUARD_DONT_WAIT | GUARD_NO_SIGNAL, 0, 0);
    RAW(__NR_exit_group, 0);
}

static void guard_obey(struct guard *guard)
{
    struct sl_order order;
    long got = RAW(__NR_recvfrom, GUARD_CONTROL, &order, sizeof order, GUARD_DONT_WAIT, 0, 0);
    if (got == -GUARD_EAGAIN || got == -GUARD_EINTR)
        return;
    if (got != sizeof order || order.kind == SL_ORDER_KILL)
        guard_end(guard); /* a closed socket or a message that no host of ours sends: refuse to go on */
    if (order.kind == SL_ORDER_SIGNAL_ALL)
        guard_signal_all(guard, order.signal);
    else if (order.kind == SL_ORDER_SIGNAL_MAIN && !guard->main_gone)
        RAW(__NR_kill, guard->child, order.signal); /* not yet reaped, so the pid is still its own */
}

/* Watch the host; 0 when that cannot be done, because it is gone already or there is no fd: then end everything. */
static int guard_prepare(struct guard *guard)
{
    uint64_t every = ~0ULL, child = 1ULL << (GUARD_CHILD - 1);
    RAW(__NR_rt_sigprocmask, GUARD_BLOCK, &every, 0, GUARD_SIGSET_BYTES);
    guard->signals = (int)RAW(__NR_signalfd4, -1, &child, GUARD_SIGSET_BYTES, O_CLOEXEC | O_NONBLOCK);
    guard->host_pidfd = (int)RAW(__NR_pidfd_open, guard->host, 0);
    int host_there = RAW(__NR_getppid) == guard->host;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    RAW(__NR_capset, &header, none);
    return guard->signals >= 0 && guard->host_pidfd >= 0 && host_there;
}

static int64_t guard_now_ns(void)
{
    struct guard_timespec now = {0, 0};
    RAW(__NR_clock_gettime, GUARD_MONOTONIC, &now);
    return now.seconds * 1000000000 + now.nanoseconds;
}

/* Serve until the end, which does not return, or until `until_ns` (monotonic; 0: for ever), whatever happens meanwhile. */
static void guard_serve(struct guard *guard, int64_t until_ns)
{
    for (;;) {
        int alive, more = guard_reap(guard, &alive);
        if (guard->main_gone || !alive)
            guard_end(guard);
        int64_t left_ns = until_ns ? until_ns - guard_now_ns() : 0;
        if (until_ns && left_ns <= 0)
            return;
        struct guard_poll ready[] = {
            {GUARD_CONTROL, GUARD_READABLE, 0},
            {guard->host_pidfd, GUARD_READABLE, 0},
            {guard->signals, GUARD_READABLE, 0},
        };
        struct guard_timespec left = {0, more ? 0 : left_ns}; /* the young stage is shorter than a second */
        long result = RAW(__NR_ppoll, ready, 3, until_ns || more ? &left : NULL, 0, 0);
        if ((result < 0 && result != -GUARD_EINTR) || ready[1].returned)
            guard_end(guard);
        if (ready[0].returned)
            guard_obey(guard);
        if (ready[2].returned & GUARD_READABLE)
            guard_drain(guard);
    }
}

#endif
