/* Between clone and exec.
 *
 * This code runs in the host's memory, beside its threads, so it may touch its own stack and its struct sl_spawn and
 * nothing else: no libc call (one could take a lock that a host thread holds), no errno, no allocation, and no kernel
 * call whose effect belongs to the memory (PR_SET_THP_DISABLE, PR_SET_DUMPABLE) instead of the task.
 */
#include "child.h"

#include <asm/stat.h>
#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/futex.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

#include "raw.h"

#ifndef __NR_landlock_restrict_self
#define __NR_landlock_restrict_self 446 /* 5.13, the same number everywhere */
#endif
#ifndef __NR_mount_setattr
#define __NR_mount_setattr 442 /* 5.12 */
#endif
#ifndef __NR_close_range
#define __NR_close_range 436 /* 5.9 */
#endif

_Static_assert(SL_STEP_EXEC == 21, "the names in spawn.py");

enum {
    SIGNALS = 64,               /* _NSIG */
    FIRST_BEYOND_STDIO = 3,
    SIGNAL_KILL = 9,
    SIGNAL_STOP = 19,
    SIGSET_BYTES = 8,
    SET_MASK = 2,               /* SIG_SETMASK */
    MAX_WRITABLE = 256,
    ERR_ENOENT = 2, ERR_EACCES = 13, ERR_ENOTDIR = 20, ERR_EINVAL = 22, ERR_E2BIG = 7, ERR_ESRCH = 3,
    FLAG_ADDR_NO_RANDOMIZE = 0x0040000, /* personality(2) */
    SET_FD_FLAGS = 2,           /* F_SETFD */
    FLAG_NEW_LISTENER = 1 << 3, /* SECCOMP_FILTER_FLAG_NEW_LISTENER, 5.0 */
    AT_TREE_RECURSIVE = 0x8000, /* AT_RECURSIVE, 5.2 */
    MOUNT_PRIVATE = 1 << 18,    /* MS_PRIVATE */
};

/* The kernel's struct sigaction differs in order between architectures; for "default" every byte is zero. */
struct kernel_sigaction {
    unsigned long words[4];
};

struct mount_attributes { /* struct mount_attr, 5.12 */
    uint64_t set;
    uint64_t clear;
    uint64_t propagation;
    uint64_t user_namespace;
};

_Static_assert(sizeof(struct mount_attributes) == 32, "MOUNT_ATTR_SIZE_VER0");
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

static int attach_stdio(struct sl_spawn *spawn)
{
    /* The caller has moved every source that is not in its place above 2, so no dup3 overwrites a later source. */
    for (int number = 0; number < 3; number++) {
        int source = spawn->stdio[number];
        long result = source == number ? RAW(__NR_fcntl, number, SET_FD_FLAGS, 0)
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
    return 0;
}

static long write_line(const char *path, const char *text)
{
    long length = 0;
    while (text[length])
        length++;
    long fd = RAW(__NR_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    long result = RAW(__NR_write, fd, text, length);
    RAW(__NR_close, fd);
    return result < 0 ? result : 0;
}

static long enter_namespaces(struct sl_spawn *spawn)
{
    unsigned long flags = CLONE_NEWNS | (spawn->flags & SL_SPAWN_USER_NS ? CLONE_NEWUSER : 0);
    long result = RAW(__NR_unshare, flags);
    if (result < 0) {
        sl_fail(spawn, SL_STEP_NAMESPACE, result, 0);
        return -1;
    }
    if (!(spawn->flags & SL_SPAWN_USER_NS))
        return 0;
    const char *const files[] = {"/proc/self/setgroups", "/proc/self/uid_map", "/proc/self/gid_map"};
    const char *const lines[] = {"deny", spawn->uid_map, spawn->gid_map};
    for (int index = 0; index < 3; index++) {
        result = write_line(files[index], lines[index]);
        if (result < 0) {
            sl_fail(spawn, SL_STEP_ID_MAP, result, index);
            return -1;
        }
    }
    return 0;
}

static long set_mounts(uint64_t attributes, uint64_t propagation)
{
    struct mount_attributes change = {.set = attributes, .propagation = propagation};
    return RAW(__NR_mount_setattr, AT_FDCWD, "/", AT_TREE_RECURSIVE, &change, sizeof change);
}

/* Whether the tree is one of the whole root: a mount over `/` would stay under the root that the child has already. */
static int is_root(int tree)
{
    struct stat root, status;
    return !RAW(__NR_newfstatat, AT_FDCWD, "/", &root, 0) && !RAW(__NR_newfstatat, tree, "", &status, AT_EMPTY_PATH)
           && root.st_dev == status.st_dev && root.st_ino == status.st_ino;
}

static int make_read_only(struct sl_spawn *spawn)
{
    int trees[MAX_WRITABLE];
    uint32_t count = 0;
    long result = set_mounts(0, MOUNT_PRIVATE); /* before anything changes: nothing may travel back to the host */
    if (result < 0)
        goto failed;
    for (; spawn->writable[count]; count++) {
        if (count == MAX_WRITABLE) {
            result = -ERR_E2BIG;
            goto failed;
        }
        result = RAW(__NR_open_tree, AT_FDCWD, spawn->writable[count],
                     OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_TREE_RECURSIVE);
        if (result < 0)
            goto failed;
        trees[count] = (int)result;
        if (is_root(trees[count]))
            return 0; /* everything is granted, so nothing is to be read-only */
    }
    uint32_t grants = count;
    count = grants + 1; /* names no path: the failing step is the whole tree */
    result = set_mounts(MOUNT_ATTR_RDONLY, 0);
    if (result < 0)
        goto failed;
    for (count = 0; count < grants; count++) {
        /* A grant may be a link: its target was cloned, so its target is covered. */
        result = RAW(__NR_move_mount, trees[count], "", AT_FDCWD, spawn->writable[count],
                     MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS);
        if (result < 0)
            goto failed;
        RAW(__NR_close, trees[count]);
    }
    return 0;
failed:
    sl_fail(spawn, SL_STEP_MOUNT, result, count);
    return -1;
}

static int limit(struct sl_spawn *spawn)
{
    for (uint32_t index = 0; index < spawn->n_limits; index++) {
        const struct sl_limit *wanted = &spawn->limits[index];
        long result = RAW(__NR_prlimit64, 0, wanted->resource, &wanted->soft, 0);
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
    if (spawn->n_filter) {
        struct sock_fprog program = {.len = (uint16_t)spawn->n_filter, .filter = (struct sock_filter *)spawn->filter};
        result = RAW(__NR_seccomp, SECCOMP_SET_MODE_FILTER, spawn->filter_flags, &program);
        if (result < 0) {
            sl_fail(spawn, SL_STEP_SECCOMP, result, 0);
            return -1;
        }
        if (spawn->filter_flags & FLAG_NEW_LISTENER)
            spawn->listener = (int32_t)result;
    }
    return 0;
}

static int park(struct sl_spawn *spawn)
{
    __atomic_store_n(&spawn->phase, SL_PHASE_PARKED, __ATOMIC_RELEASE);
    RAW(__NR_futex, &spawn->phase, FUTEX_WAKE, 1);
    while (!__atomic_load_n(&spawn->go, __ATOMIC_ACQUIRE))
        RAW(__NR_futex, &spawn->go, FUTEX_WAIT, 0, 0);
    if (spawn->go == SL_VERDICT_GO)
        return 0;
    RAW(__NR_kill, spawn->child_pid, SIGNAL_KILL); /* so that the report says "killed", not "exited" */
    return -1;
}

/* Close the fds from `first` to `last`; an empty range is fine. */
static long close_fds(unsigned int first, unsigned int last)
{
    return first > last ? 0 : RAW(__NR_close_range, first, last, 0);
}

static int close_undeclared(struct sl_spawn *spawn)
{
    /* The listener, when there is one, stays for the host to take; it is close-on-exec. */
    unsigned int first = FIRST_BEYOND_STDIO, listener = (unsigned int)spawn->listener;
    long result = 0;
    for (uint32_t index = 0; index <= spawn->n_keep && result >= 0; index++) {
        unsigned int next = index < spawn->n_keep ? (unsigned int)spawn->keep[index] : ~0U;
        unsigned int last = next == ~0U ? next : next - 1;
        if (spawn->listener >= 0 && first <= listener && listener <= last) {
            result = close_fds(first, listener - 1);
            first = listener + 1;
        }
        if (result >= 0)
            result = close_fds(first, last);
        first = next + 1;
    }
    if (result >= 0)
        return 0;
    sl_fail(spawn, SL_STEP_CLOSE, result, 0);
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
    __atomic_store_n(&spawn->child_tid, (int32_t)((uint32_t)spawn->child_pid | FUTEX_WAITERS), __ATOMIC_RELEASE);
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
    spawn->child_pid = (int32_t)RAW(__NR_getpid); /* the guard may still be inside its clone */
    if (spawn->flags & SL_SPAWN_OWN_MEMORY)
        mark_the_end(spawn, &head, &node);
    long result = RAW(__NR_setsid);
    if (result >= 0)
        result = RAW(__NR_prctl, PR_SET_PDEATHSIG, SIGNAL_KILL, 0, 0, 0);
    if (result >= 0 && RAW(__NR_getppid) != spawn->guard_pid)
        result = -ERR_ESRCH; /* the guard died before the line above could see it */
    if (result < 0)
        sl_fail(spawn, SL_STEP_SESSION, result, 0);
    else if (!attach_stdio(spawn)
             && (!(spawn->flags & SL_SPAWN_MOUNT_NS) || (!enter_namespaces(spawn) && !make_read_only(spawn)))) {
        /* The working directory comes after the mounts (the old one would stay the old, writable mount) and
         * before Landlock, so that a program can be started in a folder that it may not list. */
        result = spawn->cwd ? RAW(__NR_chdir, spawn->cwd) : 0;
        if (result < 0)
            sl_fail(spawn, SL_STEP_CWD, result, 0);
        else if (!limit(spawn) && !tune(spawn) && !drop_capabilities(spawn) && !confine(spawn)
                 && !close_undeclared(spawn) && (!(spawn->flags & SL_SPAWN_PARK) || !park(spawn)))
            execute(spawn); /* fds are closed before it parks: a pipe of the host's would not end while it holds it */
    }
    RAW(__NR_exit_group, 127);
    return 127;
}
