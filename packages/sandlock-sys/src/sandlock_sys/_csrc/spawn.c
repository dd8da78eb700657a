/* The host's side of a launch, and the few steps that the guard makes before it becomes its own program.
 *
 *   host thread ── clone(CLONE_VM) ──► guard ── clone(CLONE_VM) ──► child ── execve ──► the program
 *                                        └── execve ──► the guard program (guard_main.c)
 *
 * CLONE_VM makes the cost independent of the host's size; separate fd tables, signal handlers and credentials make
 * the host independent of what the two do. Both run on stacks of this launch.
 */
#define _GNU_SOURCE
#include "spawn.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "child.h"
#include "raw.h"

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
    STACK_BYTES = 48 * 1024, /* two a launch; touched pages only are paid for */
    SIGSET_BYTES = 8,
    ERR_ESRCH = 3,
    ERR_ENOMEM = 12,
};

/* The struct is in shared memory, so that a child with memory of its own still reports into it. */
struct launch {
    struct sl_spawn spawn; /* first: a struct sl_spawn pointer is a struct launch pointer */
    char *stacks;
};

_Static_assert(offsetof(struct launch, spawn) == 0, "sl_spawn_free casts");
_Static_assert(sizeof(struct launch) <= 4096, "one page");

static void number_to_text(char *text, uint32_t value)
{
    char digits[11];
    int count = 0;
    do
        digits[count++] = (char)('0' + value % 10);
    while (value /= 10);
    while (count)
        *text++ = digits[--count];
    *text = 0;
}

static void finish_guard(struct sl_spawn *spawn, uint32_t step, long result)
{
    sl_fail(spawn, step, result, 0);
    if (spawn->child_pid > 0)
        RAW(__NR_kill, spawn->child_pid, SIGKILL);
    RAW(__NR_exit_group, 127);
}

static long clone_child(struct launch *launch)
{
    struct sl_spawn *spawn = &launch->spawn;
    char *stack_top = launch->stacks + STACK_BYTES;
    if (!(spawn->flags & SL_SPAWN_OWN_MEMORY))
        return clone(sl_child_main, stack_top, CLONE_VM | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD,
                     spawn, &spawn->child_tid, NULL, &spawn->child_tid);
    /* In a copy of the memory the kernel clears nobody's word; the guard waits for the exec in its place. */
    return clone(sl_child_main, stack_top, CLONE_VFORK | SIGCHLD, spawn);
}

static int guard_main(void *argument)
{
    struct sl_spawn *spawn = argument;
    sl_reset_signals();
    spawn->guard_pid = (int32_t)RAW(__NR_getpid);
    /* A session of its own: whoever kills the host's process group must not take the guard along with the host. */
    long result = RAW(__NR_setsid);
    if (result >= 0)
        result = RAW(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* until the guard program watches the host */
    if (result >= 0)
        result = RAW(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    if (result >= 0)
        result = RAW(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (result >= 0)
        result = RAW(__NR_prctl, PR_SET_NAME, "sandlock-guard", 0, 0, 0);
    if (result < 0)
        finish_guard(spawn, SL_STEP_GUARD, result);
    if (spawn->guard_ruleset >= 0) {
        result = RAW(__NR_landlock_restrict_self, spawn->guard_ruleset, 0);
        if (result < 0)
            finish_guard(spawn, SL_STEP_GUARD_LANDLOCK, result);
    }
    result = clone_child(argument);
    if (result < 0)
        finish_guard(spawn, SL_STEP_CLONE, -ERR_ENOMEM);
    spawn->child_pid = (int32_t)result;

    char child[12], host[12];
    number_to_text(child, (uint32_t)spawn->child_pid);
    number_to_text(host, (uint32_t)RAW(__NR_getppid));
    char *argv[] = {"sandlock-guard", child, host, spawn->flags & SL_SPAWN_UNSCOPED ? "walk" : "scope", NULL};
    char *envp[] = {NULL};
    result = RAW(__NR_dup3, spawn->control, 0, 0);
    if (result >= 0)
        result = RAW(__NR_close_range, 1, ~0U, 0);
    if (result >= 0)
        result = RAW(__NR_execve, spawn->guard_path, argv, envp);
    finish_guard(spawn, SL_STEP_GUARD_EXEC, result);
    return 127;
}

static void wait_cleared(int32_t *word)
{
    int32_t value;
    while ((value = __atomic_load_n(word, __ATOMIC_ACQUIRE)) != 0)
        RAW(__NR_futex, word, FUTEX_WAIT, value, 0); /* not PRIVATE: the kernel's wake at exec is a shared one */
}

static int32_t running(struct sl_spawn *spawn)
{
    return __atomic_load_n(&spawn->guard_tid, __ATOMIC_ACQUIRE) | __atomic_load_n(&spawn->child_tid, __ATOMIC_ACQUIRE);
}

static void wait_started(struct sl_spawn *spawn)
{
    /* Without parking the two words tell all: the guard's is cleared only after the child's was set. */
    if (!(spawn->flags & SL_SPAWN_PARK)) {
        wait_cleared(&spawn->guard_tid);
        wait_cleared(&spawn->child_tid);
        return;
    }
    /* Parked or dead, whichever comes first; a death between the two looks is seen within one tick. */
    struct timespec tick = {.tv_nsec = 20 * 1000 * 1000};
    while (__atomic_load_n(&spawn->phase, __ATOMIC_ACQUIRE) == SL_PHASE_STARTING && running(spawn))
        RAW(__NR_futex, &spawn->phase, FUTEX_WAIT, SL_PHASE_STARTING, &tick);
}

struct sl_spawn *sl_spawn_new(void)
{
    struct launch *launch =
        mmap(NULL, sizeof *launch, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (launch == MAP_FAILED)
        return NULL;
    launch->stacks = mmap(NULL, 2 * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (launch->stacks == MAP_FAILED) {
        munmap(launch, sizeof *launch);
        return NULL;
    }
    struct sl_spawn *spawn = &launch->spawn;
    spawn->ruleset = spawn->guard_ruleset = spawn->control = spawn->listener = spawn->guard_pidfd = -1;
    return spawn;
}

void sl_spawn_free(struct sl_spawn *spawn)
{
    struct launch *launch = (struct launch *)spawn;
    munmap(launch->stacks, 2 * STACK_BYTES);
    munmap(launch, sizeof *launch);
}

long sl_spawn(struct sl_spawn *spawn)
{
    struct launch *launch = (struct launch *)spawn;
    uint64_t every = ~0ULL, before = 0;
    RAW(__NR_rt_sigprocmask, SIG_SETMASK, &every, &before, SIGSET_BYTES);
    spawn->guard_tid = 1; /* until the kernel clears it */
    int pid = clone(guard_main, launch->stacks + 2 * STACK_BYTES, CLONE_VM | CLONE_PIDFD | CLONE_CHILD_CLEARTID | SIGCHLD,
                    spawn, &spawn->guard_pidfd, NULL, &spawn->guard_tid);
    int error = errno; /* the only libc error number read here, in the host's own thread */
    if (pid > 0)
        wait_started(spawn);
    RAW(__NR_rt_sigprocmask, SIG_SETMASK, &before, 0, SIGSET_BYTES);
    return pid > 0 ? 0 : -error;
}

long sl_spawn_go(struct sl_spawn *spawn, uint32_t verdict)
{
    __atomic_store_n(&spawn->go, verdict, __ATOMIC_RELEASE);
    RAW(__NR_futex, &spawn->go, FUTEX_WAKE, 1);
    wait_cleared(&spawn->guard_tid);
    wait_cleared(&spawn->child_tid);
    return 0;
}

long sl_control_pair(int32_t *pair)
{
    return RAW(__NR_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
}
