/* who: what this process is: no_new_privs, securebits, capabilities, session, group, death signal, blocked and ignored
 * signals, limits, umask, dumpable, arguments and environment, the working directory. For where /proc is not granted. */
#define _GNU_SOURCE
#include "report.h"
#include <linux/capability.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

extern char **environ;

int main(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct caps[2] = {{0, 0, 0}, {0, 0, 0}};
    int death = -1, bounding = 0, blocked = 0, ignored = 0;
    report("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    report("seccomp", prctl(PR_GET_SECCOMP));
    if (syscall(SYS_capget, &header, caps) == 0)
        report("capabilities", (long)(caps[0].effective | caps[0].permitted | caps[0].inheritable | caps[1].effective
                                      | caps[1].permitted | caps[1].inheritable));
    for (int number = 0; number < 64; number++)
        bounding += prctl(PR_CAPBSET_READ, number, 0, 0, 0) == 1;
    report("bounding", bounding);
    report("session_leader", getsid(0) == getpid());
    report("group_leader", getpgrp() == getpid());
    prctl(PR_GET_PDEATHSIG, &death);
    report("death_signal", death);
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    for (int number = 1; number < 65; number++) {
        struct sigaction action;
        blocked += sigismember(&mask, number) == 1;
        if (sigaction(number, NULL, &action) == 0)
            ignored += action.sa_handler == SIG_IGN;
    }
    report("blocked", blocked);
    report("ignored", ignored);
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    report("core", (long)limit.rlim_max);
    report("dumpable", prctl(PR_GET_DUMPABLE));
    report("uid", getuid());
    report("gid", getgid());
    report("parent", getppid());
    char line[8192];
    for (char **variable = environ; *variable != NULL; variable++) {
        snprintf(line, sizeof line, "env %s\n", *variable);
        if (write(2, line, strlen(line)) < 0)
            return 3;
    }
    return 0;
}
