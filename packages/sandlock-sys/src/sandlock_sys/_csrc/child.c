/* Between clone and exec.
 *
 * This code runs in the host's memory, beside its threads, so it may touch its own stack and its struct sl_spawn and
 * nothing else: no libc call (one could take a lock that a host thread holds), no errno, no allocation, and no kernel
 * call whose effect belongs to the memory (PR_SET_THP_DISABLE, PR_SET_DUMPABLE) instead of the task.
 */
#include "child.h"

#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

#include "raw.h"
#include "relay.h"
#include "view.h"

#ifndef __NR_landlock_restrict_self
#define __NR_landlock_restrict_self 446 /* 5.13, the same number everywhere */
#endif
#ifndef __NR_close_range
#define __NR_close_range 436 /* 5.9 */
#endif

_Static_assert(SL_STEP_EXEC == 31, "the names in spawn.py");

enum {
    SIGNALS = 64,               /* _NSIG */
    FIRST_BEYOND_STDIO = 3,
    SIGNAL_KILL = 9,
    SIGNAL_STOP = 19,
    SIGSET_BYTES = 8,
    SET_MASK = 2,               /* SIG_SETMASK */
    LIMIT_CORE = 4, /* RLIMIT_CORE */
    ERR_EPERM = 1, ERR_ENOENT = 2, ERR_EACCES = 13, ERR_ENOTDIR = 20, ERR_EINVAL = 22, ERR_ESRCH = 3,
    FLAG_ADDR_NO_RANDOMIZE = 0x0040000, /* personality(2) */
    SET_FD_FLAGS = 2,           /* F_SETFD */
    TAKE_TERMINAL = 0x540E,     /* TIOCSCTTY, asm-generic/ioctls.h: the same on every architecture here */
    FLAG_NEW_LISTENER = 1 << 3, /* SECCOMP_FILTER_FLAG_NEW_LISTENER, 5.0 */
};

/* The kernel's struct sigaction differs in order between architectures; for "default" every byte is zero. */
struct kernel_sigaction {
    unsigned long words[4];
};

_Static_assert(sizeof(struct sl_limit) == 24, "resource and struct rlimit64");

void sl_reset_signal(int number)
{
    struct kernel_sigaction action = {{0, 0, 0, 0}};
    RAW(__NR_rt_sigaction, number, &action, 0, SIGSET_BYTES);
}

static void reset_signals(void)
{
    /* The host's handlers are code that runs in its memory: none may run here. Ignored signals (Python ignores
     * SIGPIPE) go back to their defaults too, as the program expects. */
    for (int number = 1; number <= SIGNALS; number++)
        if (number != SIGNAL_KILL && number != SIGNAL_STOP)
            sl_reset_signal(number);
}

void sl_fail(struct sl_spawn *spawn, uint32_t step, long result, uint32_t detail)
{
    if (__atomic_exchange_n(&spawn->failed, 1, __ATOMIC_ACQ_REL))
        return; /* the first failure is the cause; a guard that fails after its child must not hide it */
    spawn->step = step;
    spawn->detail = detail;
    __atomic_store_n(&spawn->error, (int32_t)-result, __ATOMIC_RELEASE);
}

/* Opened here, below the read-only mounts: through an fd of the host's the owner could change the node's mode. */
static long open_null(int number)
{
    long fd = RAW(__NR_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    if (fd == number) /* the caller runs without this stream */
        return RAW(__NR_fcntl, number, SET_FD_FLAGS, 0);
    long result = RAW(__NR_dup3, fd, number, 0);
    RAW(__NR_close, fd);
    return result;
}

static int attach_stdio(struct sl_spawn *spawn)
{
    /* The caller has moved every source that is not in its place above 2, so no dup3 overwrites a later source. */
    for (int number = 0; number < 3; number++) {
        int source = spawn->stdio[number];
        long result = source == SL_SPAWN_NULL_DEVICE ? open_null(number)
                      : source == number             ? RAW(__NR_fcntl, number, SET_FD_FLAGS, 0)
                                                     : RAW(__NR_dup3, source, number, 0);
        if (result < 0) {
            sl_fail(spawn, SL_STEP_STDIO, result, number);
            return -1;
        }
    }
    for (uint32_t index = 0; index < spawn->n_keep; index++) {
        long result = RAW(__NR_fcntl, spawn->keep[index], SET_FD_FLAGS, 0);
        if (result < 0) {
            sl_fail(spawn, SL_STEP_KEEP, result, index);
            return -1;
        }
    }
    /* Never stolen (third argument 0): where another session has it, the launch fails. */
    long result = spawn->flags & SL_SPAWN_TERMINAL ? RAW(__NR_ioctl, 0, TAKE_TERMINAL, 0) : 0;
    if (result < 0) {
        sl_fail(spawn, SL_STEP_SESSION, result, 0);
        return -1;
    }
    return 0;
}

static int limit(struct sl_spawn *spawn)
{
    for (uint32_t index = 0; index < spawn->n_limits; index++) {
        const struct sl_limit *wanted = &spawn->limits[index];
        long result = RAW(__NR_prlimit64, 0, wanted->resource, &wanted->soft, 0);
        if (result == -ERR_EPERM && wanted->resource == LIMIT_CORE) {
            const uint64_t none[2] = {0, 0}; /* the caller may not dump at all: less than that cannot be asked for */
            result = RAW(__NR_prlimit64, 0, LIMIT_CORE, none, 0);
        }
        if (result < 0) {
            sl_fail(spawn, SL_STEP_LIMIT, result, index);
            return -1;
        }
    }
    return 0;
}

static int tune(struct sl_spawn *spawn)
{
    long result = 0;
    if (spawn->affinity_bytes) {
        result = RAW(__NR_sched_setaffinity, 0, spawn->affinity_bytes, spawn->affinity);
        if (result < 0) {
            sl_fail(spawn, SL_STEP_AFFINITY, result, 0);
            return -1;
        }
    }
    if (spawn->flags & SL_SPAWN_NO_ASLR) {
        result = RAW(__NR_personality, FLAG_ADDR_NO_RANDOMIZE);
        if (result < 0) {
            sl_fail(spawn, SL_STEP_PERSONALITY, result, 0);
            return -1;
        }
    }
    if (spawn->flags & SL_SPAWN_NO_THP) {
        result = spawn->flags & SL_SPAWN_OWN_MEMORY ? RAW(__NR_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0) : -ERR_EINVAL;
        if (result < 0) {
            sl_fail(spawn, SL_STEP_THP, result, 0);
            return -1;
        }
    }
    return 0;
}

static int drop_capabilities(struct sl_spawn *spawn)
{
    /* With no_new_privs no exec gains a capability, as uid 0 neither (capabilities(7)): what is given up here is gone,
     * ambient ones too, and the bounding set has nothing left to bound. Yet to the kernel an exec as uid 0 tries to, and
     * so loses ADDR_NO_RANDOMIZE; without the root bit it does not try. Refused to ordinary users, who need it not. */
    RAW(__NR_prctl, PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED, 0, 0, 0);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    long result = RAW(__NR_capset, &header, none);
    if (result < 0) {
        sl_fail(spawn, SL_STEP_CAPABILITIES, result, 0);
        return -1;
    }
    return 0;
}

/* What the host is to write in stays until the exec, where the host can take it from. */
static long close_between(unsigned int first, unsigned int last, int spared)
{
    if (spared >= 0 && (unsigned int)spared >= first && (unsigned int)spared <= last) {
        long result = close_between(first, (unsigned int)spared - 1, -1);
        return result < 0 ? result : close_between((unsigned int)spared + 1, last, -1);
    }
    return first > last ? 0 : RAW(__NR_close_range, first, last, 0);
}

/* Before the filter, so that the listener finds room under a low RLIMIT_NOFILE, and before the park: a pipe of the
 * host's would not end as long as a parked child held it too. */
static int close_undeclared(struct sl_spawn *spawn)
{
    unsigned int first = FIRST_BEYOND_STDIO;
    for (uint32_t index = 0; index <= spawn->n_keep; index++) {
        unsigned int next = index < spawn->n_keep ? (unsigned int)spawn->keep[index] : ~0U;
        unsigned int last = next == ~0U ? next : next - 1;
        long result = close_between(first, last, spawn->live[SL_LIVE_HOST]);
        if (result < 0) {
            sl_fail(spawn, SL_STEP_CLOSE, result, 0);
            return -1;
        }
        first = next + 1;
    }
    return 0;
}

/* The filter, and where it has a listener the way of that to the host. */
static int filter(struct sl_spawn *spawn)
{
    char stack[SL_RELAY_STACK] __attribute__((aligned(16)));
    struct sock_fprog program = {.len = (uint16_t)spawn->n_filter, .filter = (struct sock_filter *)spawn->filter};
    int listens = (spawn->filter_flags & FLAG_NEW_LISTENER) != 0;
    long result = listens ? sl_relay_begin(spawn, stack) : 0;
    if (result < 0) {
        sl_fail(spawn, SL_STEP_LISTENER, result, 0);
        return -1;
    }
    result = RAW(__NR_seccomp, SECCOMP_SET_MODE_FILTER, spawn->filter_flags, &program);
    if (result < 0) {
        sl_fail(spawn, SL_STEP_SECCOMP, result, 0);
        return -1;
    }
    if (!listens)
        return 0;
    __atomic_store_n(&spawn->listener, (int32_t)result, __ATOMIC_RELEASE);
    result = sl_relay_end(spawn);
    if (result < 0)
        sl_fail(spawn, SL_STEP_LISTENER, result, 0);
    return result < 0 ? -1 : 0;
}

static int confine(struct sl_spawn *spawn)
{
    long result = RAW(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (result < 0) {
        sl_fail(spawn, SL_STEP_NO_NEW_PRIVS, result, 0);
        return -1;
    }
    if (spawn->ruleset >= 0) {
        result = RAW(__NR_landlock_restrict_self, spawn->ruleset, 0);
        if (result < 0) {
            sl_fail(spawn, SL_STEP_LANDLOCK, result, 0);
            return -1;
        }
    }
    if (close_undeclared(spawn))
        return -1;
    /* In a pid namespace: until its init has executed, /proc/1 shows the host's command line. Not behind the filter, which
     * may ask somebody for every call. */
    sl_wait_cleared(&spawn->init_tid);
    return spawn->n_filter ? filter(spawn) : 0;
}

static int park(struct sl_spawn *spawn)
{
    __atomic_store_n(&spawn->phase, SL_PHASE_PARKED, __ATOMIC_RELEASE);
    RAW(__NR_futex, &spawn->phase, FUTEX_WAKE, 1);
    while (!__atomic_load_n(&spawn->go, __ATOMIC_ACQUIRE))
        RAW(__NR_futex, &spawn->go, FUTEX_WAIT, 0, 0);
    if (spawn->go == SL_VERDICT_GO)
        return 0;
    RAW(__NR_kill, RAW(__NR_getpid), SIGNAL_KILL); /* so that the report says "killed", not "exited" */
    return -1;
}

/* Mark child_tid when this task executes or dies. In a copy of the memory CLONE_CHILD_CLEARTID does nothing at exec, as
 * nobody else uses that memory; a robust futex list (linux/futex.h) is worked off all the same, on the page that the
 * copy shares with the host. `head` and `node` must outlive the exec. */
static void mark_the_end(struct sl_spawn *spawn, struct robust_list_head *head, struct robust_list *node)
{
    head->list.next = node;
    head->futex_offset = (long)((uintptr_t)&spawn->child_tid - (uintptr_t)node);
    head->list_op_pending = 0;
    node->next = &head->list;
    RAW(__NR_set_robust_list, head, sizeof *head);
    /* The kernel compares with the number in the child's own pid namespace. */
    __atomic_store_n(&spawn->child_tid, (int32_t)((uint32_t)RAW(__NR_getpid) | FUTEX_WAITERS), __ATOMIC_RELEASE);
}

static void execute(struct sl_spawn *spawn)
{
    uint64_t none = 0;
    long error = -ERR_ENOENT;
    uint32_t index = 0, failed = 0;
    RAW(__NR_rt_sigprocmask, SET_MASK, &none, 0, SIGSET_BYTES);
    for (; spawn->candidates[index]; index++) {
        long result = RAW(__NR_execve, spawn->candidates[index], spawn->argv, spawn->envp);
        if (result == -ERR_ENOENT || result == -ERR_ENOTDIR)
            continue;
        error = result; /* what execvp(3) tells: a refusal outlives a later "not there" */
        failed = index;
        if (result != -ERR_EACCES)
            break;
    }
    sl_fail(spawn, SL_STEP_EXEC, error, failed);
}

int sl_child_main(void *argument)
{
    struct sl_spawn *spawn = argument;
    struct robust_list_head head;
    struct robust_list node;
    reset_signals();
    spawn->child_pid = spawn->child_tid; /* as the guard knows it, who may still be inside its clone */
    if (spawn->flags & SL_SPAWN_OWN_MEMORY)
        mark_the_end(spawn, &head, &node);
    long result = RAW(__NR_setsid);
    if (result >= 0)
        result = RAW(__NR_prctl, PR_SET_PDEATHSIG, SIGNAL_KILL, 0, 0, 0);
    /* In a pid namespace the guard has no number; its init, which watches the guard already, is what dies first there. */
    if (result >= 0 && !(spawn->flags & SL_SPAWN_PID_NS) && RAW(__NR_getppid) != spawn->guard_pid)
        result = -ERR_ESRCH; /* the guard died before the line above could see it */
    if (result < 0)
        sl_fail(spawn, SL_STEP_SESSION, result, 0);
    else if ((!(spawn->flags & SL_SPAWN_PID_NS) || !sl_finish_view(spawn)) && !attach_stdio(spawn)) {
        /* Before Landlock, so that a program can be started in a folder that it may not list. */
        result = spawn->cwd ? RAW(__NR_chdir, spawn->cwd) : 0;
        if (result < 0)
            sl_fail(spawn, SL_STEP_CWD, result, 0);
        else if (!limit(spawn) && !tune(spawn) && !drop_capabilities(spawn) && !confine(spawn)
                 && (!(spawn->flags & SL_SPAWN_PARK) || !park(spawn)))
            execute(spawn);
    }
    RAW(__NR_exit_group, 127);
    return 127;
}
