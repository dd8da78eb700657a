/* The host's side of a launch, and the guard as long as the sandbox is young.
 *
 *   host thread ── clone(CLONE_VM) ──► guard ── clone(CLONE_VM) ──► child ── execve ──► the program
 *                                        │ └─ with a pid namespace, before: clone(CLONE_VM) ──► init ── execve ──► init
 *                                        └── after YOUNG_NS: execve ──► the guard program (guard_main.c)
 *
 * CLONE_VM makes the cost independent of the host's size; separate fd tables, signal handlers and credentials make
 * the host independent of what the two do. Both run on stacks of this launch.
 */
#define _GNU_SOURCE
#include "spawn.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "child.h"
#include "guard_loop.h"
#include "init.h"
#include "mounts.h"
#include "raw.h"
#include "view.h"

#ifndef __NR_landlock_restrict_self
#define __NR_landlock_restrict_self 446
#endif
#ifndef __NR_close_range
#define __NR_close_range 436
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000 /* 5.2 */
#endif

enum {
    STACK_BYTES = 48 * 1024, /* touched pages only are paid for */
    STACKS = 3,              /* child, guard, init */
    SIGSET_BYTES = 8,
    NOT_CLONED = 1, /* in child_tid: until the kernel writes the child's number there; no child has init's */
    TICK_NS = 20 * 1000 * 1000,
    ERR_ESRCH = 3,
    YOUNG_NS = 20 * 1000 * 1000, /* a sandbox that lives longer has a guard with memory of its own */
};

/* The struct is in shared memory, so that a child with memory of its own still reports into it. */
struct launch {
    struct sl_spawn spawn; /* first: a struct sl_spawn pointer is a struct launch pointer */
    char *stacks;
};

_Static_assert(offsetof(struct launch, spawn) == 0, "sl_spawn_free casts");
_Static_assert(sizeof(struct launch) <= 4096, "one page");

static int guard_walk(int signal)
{
    (void)signal; /* the young guard never walks: without a scope it becomes the program at once */
    return 0;
}

static char *number_to_text(char *text, uint64_t value)
{
    char digits[21];
    int count = 0;
    char *start = text;
    do
        digits[count++] = (char)('0' + value % 10);
    while (value /= 10);
    while (count)
        *text++ = digits[--count];
    *text = 0;
    return start;
}

static void clear(int32_t *word)
{
    __atomic_store_n(word, 0, __ATOMIC_RELEASE);
    RAW(__NR_futex, word, FUTEX_WAKE, INT_MAX);
}

static void leave_guard(struct sl_spawn *spawn)
{
    if (spawn->child_pid > 0)
        RAW(__NR_kill, spawn->child_pid, SIGKILL);
    else
        clear(&spawn->child_tid);
    if (spawn->init_pid > 0) {
        RAW(__NR_kill, spawn->init_pid, SIGKILL);
        while (RAW(__NR_wait4, -1, 0, GUARD_ANY_CHILD, 0) > 0)
            continue; /* its end ends the namespace, and takes the first child along */
    }
    RAW(__NR_exit_group, 127);
}

static void finish_guard(struct sl_spawn *spawn, uint32_t step, long result)
{
    sl_fail(spawn, step, result, 0);
    leave_guard(spawn);
}

void sl_wait_cleared(int32_t *word)
{
    int32_t value;
    while ((value = __atomic_load_n(word, __ATOMIC_ACQUIRE)) != 0)
        RAW(__NR_futex, word, FUTEX_WAIT, value, 0); /* not PRIVATE: the kernel's wake at exec is a shared one */
}

static long clone_child(struct launch *launch)
{
    struct sl_spawn *spawn = &launch->spawn;
    char *stack_top = launch->stacks + STACK_BYTES;
    /* CLONE_VFORK: the guard has nothing to do before the exec, and out of the way the child starts at once. Not for a
     * parked child: its guard must hear orders, and the end of the host. */
    int flags = SIGCHLD | CLONE_PARENT_SETTID | (spawn->flags & SL_SPAWN_PARK ? 0 : CLONE_VFORK);
    /* In a copy of the memory the kernel clears nobody's word; a robust futex list does that (child.c). */
    flags |= spawn->flags & SL_SPAWN_OWN_MEMORY ? 0 : CLONE_VM | CLONE_CHILD_CLEARTID;
    int pid = clone(sl_child_main, stack_top, flags, spawn, &spawn->child_tid, NULL, &spawn->child_tid);
    return pid < 0 ? -errno : pid; /* the host's thread waits, so nobody else writes its errno */
}

/* The first process of the pid namespace, which all children of the guard are born into from now on. It executes beside
 * the child, on a stack of its own; both the child and the guard wait for that before they execute. -errno, or its number. */
static long clone_init(struct launch *launch)
{
    struct sl_spawn *spawn = &launch->spawn;
    spawn->init_tid = NOT_CLONED;
    int pid = clone(sl_init_main, launch->stacks + 3 * STACK_BYTES, SIGCHLD | CLONE_VM | CLONE_CHILD_CLEARTID,
                    spawn, NULL, NULL, &spawn->init_tid);
    if (pid < 0)
        spawn->init_tid = 0;
    return pid < 0 ? -errno : pid;
}

/* Returns only when that failed. */
static void become_program(struct sl_spawn *spawn, const struct guard *guard)
{
    char numbers[8][24];
    char *argv[] = {
        "sandlock-guard",
        number_to_text(numbers[0], (uint32_t)guard->child),
        number_to_text(numbers[1], (uint32_t)guard->host),
        guard->reach == GUARD_INIT ? number_to_text(numbers[7], (uint32_t)guard->init)
        : guard->reach == GUARD_WALK ? "walk" : "scope",
        number_to_text(numbers[2], guard->report.reaped),
        number_to_text(numbers[3], guard->report.user_us),
        number_to_text(numbers[4], guard->report.system_us),
        number_to_text(numbers[5], guard->report.peak_kib),
        number_to_text(numbers[6], guard->floor_kib),
        NULL,
    };
    _Static_assert(sizeof argv / sizeof *argv == SL_GUARD_ARGUMENTS + 1, "what guard_main.c takes");
    char *envp[] = {NULL};
    RAW(__NR_execveat, GUARD_PROGRAM, "", argv, envp, AT_EMPTY_PATH);
}

/* Before there is anything to kill: the host, of the same user, must be out of reach from this domain, or kill(-1) would
 * not stop at it. 0 when the host is gone. The program does not ask again: its domain is the one this proved. */
static int prove(struct guard *guard)
{
    long result = RAW(__NR_kill, guard->host, 0);
    if (result != -GUARD_EPERM)
        guard->reach = GUARD_WALK;
    return result != -GUARD_ESRCH && RAW(__NR_getppid) == guard->host;
}

/* Keep the control socket and the guard program, and nothing else of the host's. */
static long take_fds(struct sl_spawn *spawn)
{
    int control = spawn->control, program = spawn->guard_program;
    long result = 0;
    if (program == GUARD_CONTROL) /* the next line would close it */
        result = program = (int)RAW(__NR_fcntl, program, F_DUPFD_CLOEXEC, GUARD_PROGRAM);
    if (result >= 0 && control != GUARD_CONTROL)
        result = RAW(__NR_dup3, control, GUARD_CONTROL, 0);
    if (result >= 0 && program != GUARD_PROGRAM)
        result = RAW(__NR_dup3, program, GUARD_PROGRAM, O_CLOEXEC);
    return result < 0 ? result : RAW(__NR_close_range, GUARD_PROGRAM + 1, ~0U, 0);
}

static enum guard_reach wanted_reach(uint32_t flags)
{
    return flags & SL_SPAWN_PID_NS ? GUARD_INIT : flags & SL_SPAWN_UNSCOPED ? GUARD_WALK : GUARD_SCOPE;
}

/* Namespaces and mounts; 0, or -1 with the failure told. With a pid namespace the child makes the last of it, from inside. */
static int prepare_view(struct launch *launch, struct guard *guard)
{
    struct sl_spawn *spawn = &launch->spawn;
    uint32_t last = spawn->n_overlays + spawn->n_rules;
    if ((spawn->flags & (SL_SPAWN_MOUNT_NS | SL_SPAWN_USER_NS) || spawn->hostname) && sl_enter_namespaces(spawn))
        return -1;
    if (sl_make_overlays(spawn))
        return -1;
    if (!(spawn->flags & SL_SPAWN_PID_NS))
        return last ? sl_finish_view(spawn) : 0;
    long result = clone_init(launch);
    guard->init = spawn->init_pid = result > 0 ? (int)result : 0;
    if (result < 0)
        sl_fail(spawn, SL_STEP_INIT, result, 0);
    return spawn->error ? -1 : 0;
}

static int guard_main(void *argument)
{
    struct sl_spawn *spawn = argument;
    struct guard guard = {.host = spawn->host_pid, .reach = wanted_reach(spawn->flags)};
    sl_reset_signal(SIGCHLD); /* where the host ignores it, the kernel would reap the child and lose its status */
    spawn->guard_pid = (int32_t)RAW(__NR_getpid);
    /* A session of its own: whoever kills the host's process group must not take the guard along with the host. */
    long result = RAW(__NR_setsid);
    if (result >= 0)
        result = RAW(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    if (result >= 0)
        result = RAW(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (result >= 0)
        result = RAW(__NR_prctl, PR_SET_NAME, "sandlock-guard", 0, 0, 0);
    if (result < 0)
        finish_guard(spawn, SL_STEP_GUARD, result);
    if (prepare_view(argument, &guard))
        leave_guard(spawn);
    if (spawn->guard_ruleset >= 0) {
        result = RAW(__NR_landlock_restrict_self, spawn->guard_ruleset, 0);
        if (result < 0)
            finish_guard(spawn, SL_STEP_GUARD_LANDLOCK, result);
    }
    if (guard.reach == GUARD_SCOPE && !prove(&guard))
        finish_guard(spawn, SL_STEP_GUARD, -ERR_ESRCH); /* the host is gone, and nothing was started */
    result = clone_child(argument);
    if (result < 0)
        finish_guard(spawn, SL_STEP_CLONE, result);
    guard.child = spawn->child_pid = (int32_t)result;
    result = take_fds(spawn);
    if (result < 0)
        finish_guard(spawn, SL_STEP_GUARD, result);
    struct guard_usage usage;
    if (RAW(__NR_getrusage, 0, &usage) == 0) /* RUSAGE_SELF: the memory is the host's */
        guard.floor_kib = (uint64_t)usage.peak_kib;
    if (guard.reach != GUARD_WALK) {
        int watching = guard_prepare(&guard);
        if (!watching)
            guard_end(&guard);
        guard_serve(&guard, guard_now_ns() + YOUNG_NS);
    }
    sl_wait_cleared(&spawn->init_tid); /* it takes the guard's own word for a sign of life */
    become_program(spawn, &guard);
    if (guard.reach != GUARD_WALK)
        guard_serve(&guard, 0); /* the program is gone or may not be executed: go on as before */
    finish_guard(spawn, SL_STEP_GUARD_EXEC, -ERR_ESRCH);
    return 127;
}

static int guard_ended(const struct sl_spawn *spawn)
{
    struct guard_poll ready = {.fd = spawn->guard_pidfd, .events = GUARD_READABLE};
    struct guard_timespec now = {0, 0};
    return RAW(__NR_ppoll, &ready, 1, &now, 0, 0) == 1;
}

/* Wait until the child has executed or died or, where it parks, until it is parked and `verdict` is 0. */
static void wait_child(struct sl_spawn *spawn, uint32_t verdict)
{
    struct timespec tick = {.tv_nsec = TICK_NS};
    int parks = spawn->flags & SL_SPAWN_PARK && !verdict;
    int guard_over = 0;
    for (;;) {
        int over = guard_over; /* asked before the word is read: a guard that has ended has seen its child's end */
        int32_t word = __atomic_load_n(&spawn->child_tid, __ATOMIC_ACQUIRE);
        if (word == 0 || word & FUTEX_OWNER_DIED)
            return;
        /* The guard was killed from outside before it could clone, or before a child with memory of its own had its
         * robust list. A child that shares the memory dies with the guard, and its word is cleared then. */
        if (over && (word == NOT_CLONED || spawn->flags & SL_SPAWN_OWN_MEMORY)) {
            sl_fail(spawn, SL_STEP_CLONE, -ERR_ESRCH, 0);
            return;
        }
        if (parks && __atomic_load_n(&spawn->phase, __ATOMIC_ACQUIRE) != SL_PHASE_STARTING)
            return;
        /* A child that ends before it parks wakes nobody who waits for the phase: then a tick does. */
        long result = parks ? RAW(__NR_futex, &spawn->phase, FUTEX_WAIT, SL_PHASE_STARTING, &tick)
                            : RAW(__NR_futex, &spawn->child_tid, FUTEX_WAIT, word, &tick);
        guard_over = result == -ETIMEDOUT && guard_ended(spawn);
    }
}

static void reset(struct sl_spawn *spawn)
{
    memset(spawn, 0, sizeof *spawn);
    memset(spawn->live, -1, sizeof spawn->live);
    spawn->ruleset = spawn->guard_ruleset = spawn->control = spawn->relay = spawn->listener = spawn->guard_pidfd = -1;
    spawn->network = spawn->network_owner = -1;
}

struct sl_spawn *sl_spawn_new(void)
{
    struct launch *launch =
        mmap(NULL, sizeof *launch, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (launch == MAP_FAILED)
        return NULL;
    launch->stacks = mmap(NULL, STACKS * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (launch->stacks == MAP_FAILED) {
        munmap(launch, sizeof *launch);
        return NULL;
    }
    reset(&launch->spawn);
    return &launch->spawn;
}

static void wait_left(struct sl_spawn *spawn)
{
    sl_wait_cleared(&spawn->guard_tid); /* it may stand on its stack here */
    sl_wait_cleared(&spawn->init_tid);  /* and so may its init, when the guard was killed from outside */
    if (spawn->child_pid > 0)
        wait_child(spawn, SL_VERDICT_END); /* and so may a child that was just killed: the kernel clears its word here */
}

void sl_spawn_reuse(struct sl_spawn *spawn)
{
    wait_left(spawn);
    reset(spawn);
}

void sl_spawn_free(struct sl_spawn *spawn)
{
    struct launch *launch = (struct launch *)spawn;
    wait_left(spawn);
    munmap(launch->stacks, STACKS * STACK_BYTES);
    munmap(launch, sizeof *launch);
}

long sl_spawn(struct sl_spawn *spawn)
{
    struct launch *launch = (struct launch *)spawn;
    uint64_t every = ~0ULL, before = 0;
    RAW(__NR_rt_sigprocmask, SIG_SETMASK, &every, &before, SIGSET_BYTES);
    spawn->guard_tid = 1; /* until the kernel clears it */
    spawn->child_tid = NOT_CLONED;
    spawn->host_pid = (int32_t)RAW(__NR_getpid);
    int pid = clone(guard_main, launch->stacks + 2 * STACK_BYTES, CLONE_VM | CLONE_PIDFD | CLONE_CHILD_CLEARTID | SIGCHLD,
                    spawn, &spawn->guard_pidfd, NULL, &spawn->guard_tid);
    int error = errno; /* the only libc error number read here, in the host's own thread */
    if (pid > 0)
        wait_child(spawn, 0);
    else
        spawn->guard_tid = 0;
    RAW(__NR_rt_sigprocmask, SIG_SETMASK, &before, 0, SIGSET_BYTES);
    return pid > 0 ? 0 : -error;
}

long sl_spawn_go(struct sl_spawn *spawn, uint32_t verdict)
{
    __atomic_store_n(&spawn->go, verdict, __ATOMIC_RELEASE);
    RAW(__NR_futex, &spawn->go, FUTEX_WAKE, 1);
    wait_child(spawn, verdict);
    return 0;
}

long sl_control_pair(int32_t *pair)
{
    return RAW(__NR_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair);
}
