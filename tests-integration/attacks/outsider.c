/* Everything one process can try on another that it was not given.
 *
 *   outsider PID TID ADDRESS FD GROUP
 *
 * ADDRESS holds 8 bytes of the victim's memory, FD is one of its descriptors, GROUP its process group. Every attack is
 * reported on a line; what it did to the victim is for the victim to say (see victim.c).
 */
#define _GNU_SOURCE
#include "report.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define PIDFD_THREAD 0x80       /* linux/pidfd.h, 6.9 */

static int pid, tid, fd, group;
static unsigned long address;

static void by_signal(void)
{
    siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
    report("kill", kill(pid, SIGUSR1));
    report("kill_thread_id", kill(tid, SIGUSR1));
    report("tkill", syscall(SYS_tkill, tid, SIGUSR1));
    report("tgkill", syscall(SYS_tgkill, pid, tid, SIGUSR1));
    report("rt_sigqueueinfo", syscall(SYS_rt_sigqueueinfo, pid, SIGUSR1, &info));
    report("rt_tgsigqueueinfo", syscall(SYS_rt_tgsigqueueinfo, pid, tid, SIGUSR1, &info));
    report("kill_group", kill(-group, SIGUSR1));
    long pidfd = syscall(SYS_pidfd_open, pid, 0);
    report("pidfd_send_signal", pidfd < 0 ? pidfd : syscall(SYS_pidfd_send_signal, pidfd, SIGUSR1, NULL, 0));
    if (pidfd >= 0)
        close((int)pidfd);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d", pid);
    int folder = open(path, O_RDONLY | O_DIRECTORY);
    report("pidfd_by_proc", folder < 0 ? folder : syscall(SYS_pidfd_send_signal, folder, SIGUSR1, NULL, 0));
    if (folder >= 0)
        close(folder);
}

/* The kernel sends the signal later and reports nothing to the sender: only the victim's counter tells. */
static void by_descriptor_owner(int type, int whom, const char *name)
{
    int ends[2];
    struct f_owner_ex owner = {.type = type, .pid = whom};
    if (pipe(ends) != 0) {
        report(name, -1);
        return;
    }
    long armed = fcntl(ends[0], F_SETOWN_EX, &owner);
    if (armed == 0)
        armed = fcntl(ends[0], F_SETSIG, SIGUSR1);
    if (armed == 0)
        armed = fcntl(ends[0], F_SETFL, O_ASYNC);
    report(name, armed);
    if (write(ends[1], "x", 1) != 1)
        report("owner_write", -1);
    usleep(20000);
    close(ends[0]);
    close(ends[1]);
}

static void by_memory(void)
{
    char wanted[8] = "TAMPERED", seen[8] = {0}, path[64];
    struct iovec mine = {seen, 8}, theirs = {(void *)address, 8};
    report("process_vm_readv", syscall(SYS_process_vm_readv, pid, &mine, 1, &theirs, 1, 0));
    mine.iov_base = wanted;
    report("process_vm_writev", syscall(SYS_process_vm_writev, tid, &mine, 1, &theirs, 1, 0));
    snprintf(path, sizeof path, "/proc/%d/mem", tid);
    int memory = open(path, O_RDWR);
    report("proc_mem_open", memory);
    report("proc_mem_write", memory < 0 ? -1 : pwrite(memory, wanted, 8, (off_t)address));
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    report("proc_environ", open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    memory = open(path, O_RDONLY);
    report("proc_maps", memory < 0 ? -1 : read(memory, seen, 8));
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
    report("proc_fd_open", open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/root/etc/hostname", pid);
    report("proc_root_open", open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/oom_score_adj", pid);
    memory = open(path, O_WRONLY);
    report("proc_oom_score_adj", memory < 0 ? -1 : write(memory, "777", 3));
    long pidfd = syscall(SYS_pidfd_open, pid, 0);
    report("pidfd_getfd", pidfd < 0 ? pidfd : syscall(SYS_pidfd_getfd, pidfd, fd, 0));
    report("process_madvise", pidfd < 0 ? pidfd : syscall(SYS_process_madvise, pidfd, &theirs, 1, 21 /* MADV_PAGEOUT */, 0));
    pidfd = syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
    report("thread_pidfd_getfd", pidfd < 0 ? pidfd : syscall(SYS_pidfd_getfd, pidfd, fd, 0));
    report("kcmp", syscall(SYS_kcmp, getpid(), pid, 1 /* KCMP_VM */, 0, 0));
    void *head;
    size_t size;
    report("get_robust_list", syscall(SYS_get_robust_list, tid, &head, &size));
    int status = -1;
    void *page = (void *)(address & ~4095UL);
    report("move_pages", syscall(SYS_move_pages, pid, 1UL, &page, NULL, &status, 0));
    unsigned long nodes = 1;
    report("migrate_pages", syscall(SYS_migrate_pages, pid, 8UL, &nodes, &nodes));
}

/* Attaching stops the victim; it is let go at once, so that a win shows in the line alone. */
static void by_ptrace(void)
{
    int status;
    long result = ptrace(PTRACE_SEIZE, tid, NULL, NULL);
    report("ptrace_seize", result);
    if (result == 0) {
        ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
        waitpid(tid, &status, __WALL);
        report("ptrace_poke", ptrace(PTRACE_POKEDATA, tid, (void *)address, *(long *)"PTRACED!"));
        ptrace(PTRACE_DETACH, tid, NULL, NULL);
    }
    result = ptrace(PTRACE_ATTACH, pid, NULL, NULL);
    report("ptrace_attach", result);
    if (result == 0) {
        waitpid(pid, &status, __WALL);
        ptrace(PTRACE_DETACH, pid, NULL, NULL);
    }
}

struct sched_attributes {   /* linux/sched/types.h: struct sched_attr, first version */
    unsigned size, policy;
    unsigned long long flags;
    int nice;
    unsigned priority;
    unsigned long long runtime, deadline, period;
};

static void by_limits(int whom, const char *suffix)
{
    char name[64];
#define NAMED(text) (snprintf(name, sizeof name, text "%s", suffix), name)
    struct rlimit64 { unsigned long long soft, hard; } old, tight = {33, 4096};
    report(NAMED("prlimit_read"), syscall(SYS_prlimit64, whom, RLIMIT_NOFILE, NULL, &old));
    report(NAMED("prlimit_write"), syscall(SYS_prlimit64, whom, RLIMIT_NOFILE, &tight, NULL));
    unsigned long mask = 1;
    report(NAMED("sched_setaffinity"), syscall(SYS_sched_setaffinity, whom, sizeof mask, &mask));
    int priority = 0;
    report(NAMED("sched_setscheduler"), syscall(SYS_sched_setscheduler, whom, 3 /* SCHED_BATCH */, &priority));
    report(NAMED("sched_setparam"), syscall(SYS_sched_setparam, whom, &priority));
    struct sched_attributes attributes = {.size = sizeof attributes, .policy = 3, .nice = 7};
    report(NAMED("sched_setattr"), syscall(SYS_sched_setattr, whom, &attributes, 0));
    report(NAMED("setpriority"), setpriority(PRIO_PROCESS, (id_t)whom, 11));
    report(NAMED("ioprio_set"), syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, whom, 3 << 13 /* idle */));
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return 2;
    pid = atoi(argv[1]);
    tid = atoi(argv[2]);
    address = strtoul(argv[3], NULL, 0);
    fd = atoi(argv[4]);
    group = atoi(argv[5]);
    by_signal();
    by_descriptor_owner(F_OWNER_PID, pid, "owner_pid");
    by_descriptor_owner(F_OWNER_TID, tid, "owner_tid");
    by_descriptor_owner(F_OWNER_PGRP, group, "owner_pgrp");
    by_memory();
    by_ptrace();
    /* The values that nearly everything has already: a win is seen in the result, and harms no bystander. */
    report("setpriority_user", setpriority(PRIO_USER, 0, 0));
    report("ioprio_set_user", syscall(SYS_ioprio_set, 3 /* IOPRIO_WHO_USER */, getuid(), 0));
    by_limits(pid, "");
    by_limits(tid, "_thread");
    report("setpriority_group", setpriority(PRIO_PGRP, (id_t)group, 12));
    report("ioprio_set_group", syscall(SYS_ioprio_set, 2, group, 3 << 13));
    report("setpgid_join", setpgid(0, group));
    return 0;
}
