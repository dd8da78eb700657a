/* What this kernel, and whatever surrounds this process, really allows: found by calling, in a child.
 *
 * The child runs C only, on its own stack and with its own file descriptor table, signal mask and credentials. It is
 * no child that sends SIGCHLD or that waitpid(-1) would find. Every attempt first writes down what it is about to
 * do, so that a call for which an outer seccomp filter kills is found too, and the next child goes on behind it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <sched.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <time.h>

#include "close_range.h"
#include "landlock.h"
#include "memfd.h"
#include "notif.h"
#include "openat2.h"
#include "pagemap.h"
#include "pidfd.h"
#include "probe_attempt.h"
#include "raw.h"
#include "seccomp.h"

#ifndef __NR_clone3 /* the same number on every architecture, 5.3 */
#define __NR_clone3 435
#endif

#define ALL 0x40000000           /* __WALL, linux/wait.h */
#define KILL 9                   /* SIGKILL */
#define SET_PDEATHSIG 1          /* prctl(2) */
#define GET_SECCOMP 21           /* prctl(2) */
#define SET_NO_NEW_PRIVS 38      /* prctl(2) */
#define PTRACE_SEIZE 0x4206      /* linux/ptrace.h, 3.4 */
#define UFFD_USER_MODE_ONLY 1    /* linux/userfaultfd.h, 5.11 */
#define PIDFD_THREAD O_EXCL      /* linux/pidfd.h, 6.9 */
#define MFD_SEALABLE 3           /* MFD_CLOEXEC | MFD_ALLOW_SEALING */
#define MFD_NOEXEC_SEAL 8        /* linux/memfd.h, 6.3 */
#define F_SEAL_WRITE_BIT 8       /* linux/fcntl.h, 3.17 */
#define CLOSE_RANGE_CLOEXEC_BIT 4 /* linux/close_range.h, 5.11 */
#define NEW_LISTENER 8           /* linux/seccomp.h, 5.0 */
#define WAIT_KILLABLE_RECV 32    /* linux/seccomp.h, 5.19 */
#define ADDFD_SEND 2             /* linux/seccomp.h, 5.14 */

/* Runs `function` in a new process on `stack`; returns its id or -errno. */
long probe_start(int (*function)(void *), char *stack, int flags, struct probe *probe)
{
    /* glibc's clone() is a bare wrapper: no lock, no allocation; it sets errno, which nobody reads meanwhile. */
    int pid = clone(function, stack + STACK_SIZE, flags, probe);
    return pid < 0 ? -errno : pid;
}

/* Waits for the end; true if a signal ended the process. */
bool probe_killed(long pid)
{
    int status = 0;
    while (RAW(__NR_wait4, pid, &status, ALL, 0) == -EINTR) {
    }
    return (status & 0x7f) != 0;
}

void probe_mark_killed(struct probe *probe)
{
    if (probe->current)
        done(probe, probe->current, SL_PROBE_KILLED);
}

int probe_leave(void)
{
    RAW(__NR_exit_group, 0);
    return 0; /* to glibc's clone(), which then ends the process by exit(2) */
}

static void try_landlock(struct probe *probe, int root)
{
    struct sl_probe_results *results = &probe->results;
    TRY(&results->landlock_abi, sl_landlock_query(1));
    if (results->landlock_abi <= 0)
        return;
    TRY(&results->landlock_errata, sl_landlock_query(2));
    for (size_t bit = 0; bit < LENGTH(results->landlock_fs); bit++)
        TRY(&results->landlock_fs[bit], sl_landlock_try(root, 1ULL << bit, 0, 0));
    for (size_t bit = 0; bit < LENGTH(results->landlock_net); bit++)
        TRY(&results->landlock_net[bit], sl_landlock_try(root, 0, 1ULL << bit, 0));
    for (size_t bit = 0; bit < LENGTH(results->landlock_scope); bit++)
        TRY(&results->landlock_scope[bit], sl_landlock_try(root, 0, 0, 1ULL << bit));
    /* The flags are checked before the ruleset's fd, which is none here. */
    for (size_t bit = 0; bit < LENGTH(results->landlock_restrict); bit++)
        TRY(&results->landlock_restrict[bit], as_success_if(sl_landlock_restrict_self(-1, 1U << bit), EBADF));
}

static long restrict_self(void)
{
    long ruleset = sl_landlock_create_ruleset(1, 0, 0);
    return ruleset < 0 ? ruleset : sl_landlock_restrict_self((int)ruleset, 0);
}

static long try_openat2(void)
{
    struct sl_open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = 0x10 /* RESOLVE_IN_ROOT */};
    return sl_openat2(AT_FDCWD, "/", &how);
}

static long try_seals(void)
{
    long fd = sl_memfd_create("probe", MFD_SEALABLE);
    if (fd < 0)
        return fd;
    long result = sl_memfd_add_seals((int)fd, F_SEAL_WRITE_BIT);
    if (result == 0 && RAW(__NR_write, fd, "x", 1) != -EPERM)
        result = -EOPNOTSUPP; /* the seal was taken, and seals nothing */
    return result;
}

static long try_pagemap_scan(struct probe *probe)
{
    uint64_t page = (uint64_t)(uintptr_t)probe->child_stack & ~0xfffULL;
    uint64_t region[3];
    struct sl_pagemap_scan scan = {.start = page, .end = page + 0x10000, .category_mask = 8, .return_mask = 8};
    long pagemap = RAW(__NR_openat, AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC, 0);
    return pagemap < 0 ? pagemap : as_success(sl_pagemap_scan((int)pagemap, &scan, region, 1));
}

static void try_files(struct probe *probe)
{
    TRY(FEATURE(OPENAT2), as_success(try_openat2()));
    TRY(FEATURE(MEMFD_SEALS), try_seals());
    TRY(FEATURE(MEMFD_NOEXEC_SEAL), as_success(sl_memfd_create("probe", MFD_SEALABLE | MFD_NOEXEC_SEAL)));
    TRY(FEATURE(USERFAULTFD), as_success(RAW(__NR_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY)));
    TRY(FEATURE(PAGEMAP_SCAN), try_pagemap_scan(probe));
    TRY(FEATURE(CLONE3), as_success_if(RAW(__NR_clone3, 0, 0), EINVAL));
}

static int be_target(void *argument)
{
    /* Ends with the probing child, should that be killed; and by itself, should the first be filtered. */
    struct probe *probe = argument;
    struct timespec limit = {2, 0};
    RAW(__NR_prctl, SET_PDEATHSIG, KILL);
    if (RAW(__NR_getppid) == probe->child) /* else it was killed before the signal was asked for */
        RAW(__NR_ppoll, 0, 0, &limit, 0, 8);
    return probe_leave();
}

static long try_read(struct probe *probe)
{
    uint32_t copy = 0;
    uint64_t own[2] = {(uint64_t)(uintptr_t)&copy, sizeof copy};
    uint64_t other[2] = {(uint64_t)(uintptr_t)&probe->uid, sizeof copy};
    long result = RAW(__NR_process_vm_readv, probe->target, own, 1, other, 1, 0);
    return result == sizeof copy && copy == probe->uid ? 0 : result < 0 ? result : -EIO;
}

static void try_relatives(struct probe *probe, int root)
{
    TRY(FEATURE(PIDFD_THREAD), as_success(sl_pidfd_open((int)RAW(__NR_gettid), PIDFD_THREAD)));
    if (*FEATURE(PTRACE_SEIZE) != SL_PROBE_UNTRIED)
        return;
    probe->child = (int32_t)RAW(__NR_getpid);
    long target = probe_start(be_target, probe->target_stack, CLONE_VM, probe);
    if (target < 0)
        return;
    probe->target = (int32_t)target;
    long pidfd = -EBADF;
    TRY(FEATURE(PIDFD_OPEN), as_success(pidfd = sl_pidfd_open((int)target, 0)));
    if (pidfd >= 0)
        TRY(FEATURE(PIDFD_GETFD), as_success(sl_pidfd_getfd((int)pidfd, root, 0)));
    TRY(FEATURE(PROCESS_VM_READV), try_read(probe));
    TRY(FEATURE(PTRACE_SEIZE), RAW(__NR_ptrace, PTRACE_SEIZE, target, 0, 0));
    RAW(__NR_kill, target, KILL);
    probe_killed(target);
    probe->target = 0;
}

static void try_seccomp(struct probe *probe)
{
    static const struct sock_filter allow = {BPF_RET | BPF_K, 0, 0, 0x7fff0000 /* SECCOMP_RET_ALLOW */};
    long listener = -EBADF;
    TRY(FEATURE(SECCOMP_FILTER), sl_seccomp_set_mode_filter(0, &allow, sizeof allow));
    TRY(FEATURE(SECCOMP_WAIT_KILLABLE_RECV),
        as_success(listener = sl_seccomp_set_mode_filter(NEW_LISTENER | WAIT_KILLABLE_RECV, &allow, sizeof allow)));
    if (listener >= 0)
        *FEATURE(SECCOMP_NEW_LISTENER) = 0; /* it has been, just now; a thread can have one only */
    else
        TRY(FEATURE(SECCOMP_NEW_LISTENER),
            as_success(listener = sl_seccomp_set_mode_filter(NEW_LISTENER, &allow, sizeof allow)));
    if (listener < 0)
        return;
    TRY(FEATURE(SECCOMP_SYNC_WAKE_UP), sl_notif_set_flags((int)listener, 1));
    /* There is no notification 0: ENOENT comes after the check of the flags. */
    TRY(FEATURE(SECCOMP_ADDFD_SEND), as_success_if(sl_notif_add_fd((int)listener, 0, ADDFD_SEND, (int)listener, 0, 0),
                                                   ENOENT));
}

static int probe_child(void *argument)
{
    struct probe *probe = argument;
    /* The table is this process's own copy; a full one would fail everything below with EMFILE. */
    TRY(FEATURE(CLOSE_RANGE), sl_close_range(0, ~0U, 0));
    TRY(FEATURE(CLOSE_RANGE_CLOEXEC), sl_close_range(0, ~0U, CLOSE_RANGE_CLOEXEC_BIT));
    TRY(FEATURE(NO_NEW_PRIVS), RAW(__NR_prctl, SET_NO_NEW_PRIVS, 1));
    int root = (int)RAW(__NR_openat, AT_FDCWD, "/", O_PATH | O_CLOEXEC, 0);
    try_landlock(probe, root);
    try_files(probe);
    try_relatives(probe, root);
    probe_namespaces(probe);
    /* From here on the child is restricted. */
    try_seccomp(probe);
    TRY(FEATURE(LANDLOCK_RESTRICT_SELF), restrict_self());
    return probe_leave();
}

static long run_children(struct probe *probe)
{
    /* Sharing the memory makes the child cheap, whatever the size of the caller. Not where a filter may kill it: up
     * to 5.15 the core dump of such a death takes with it everyone who shares the memory. */
    bool filtered = RAW(__NR_prctl, GET_SECCOMP) != 0;
    int flags = filtered ? CLONE_VFORK : CLONE_VM | CLONE_VFORK;
    bool again;
    do {
        long child = probe_start(probe_child, probe->child_stack, flags, probe);
        if (child < 0)
            return child;
        again = probe_killed(child) && probe->current;
        probe_mark_killed(probe);
        if (probe->target) {
            /* It ends with its parent, and becomes ours if we are a subreaper. */
            probe_killed(probe->target);
            probe->target = 0;
        }
    } while (again);
    return 0;
}

long sl_probe(struct sl_probe_results *results)
{
    long memory = RAW(__NR_mmap, 0, sizeof(struct probe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory < 0 && memory > -4096)
        return memory;
    struct probe *probe = (struct probe *)memory;
    int32_t *slots = (int32_t *)&probe->results;
    for (size_t slot = 0; slot < sizeof probe->results / sizeof *slots; slot++)
        slots[slot] = SL_PROBE_UNTRIED;
    probe->uid = (uint32_t)RAW(__NR_geteuid);
    probe->gid = (uint32_t)RAW(__NR_getegid);
    /* No handler of the caller may run in the child, which shares the memory. */
    uint64_t all = ~(uint64_t)0, before;
    long result = RAW(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &all, &before, sizeof all);
    if (result == 0) {
        result = run_children(probe);
        RAW(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &before, 0, sizeof before);
    }
    memcpy(results, &probe->results, sizeof *results);
    RAW(__NR_munmap, probe, sizeof *probe);
    return result;
}

unsigned long sl_vdso_address(void)
{
    return getauxval(AT_SYSINFO_EHDR);
}
