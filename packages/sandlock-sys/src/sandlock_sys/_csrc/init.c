/* The first process of a pid namespace, between clone and exec: see child.c for what that forbids.
 *
 * It executes at once. In the host's memory it would show the host's command line in the sandbox's /proc/1/cmdline.
 */
#include "init.h"

#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>

#include "child.h"
#include "raw.h"

#ifndef __NR_close_range
#define __NR_close_range 436 /* 5.9 */
#endif

enum {
    PROGRAM = 0, /* the fd of the program to execute; the files that it writes come behind it */
    KILL_SIGNAL = 9,
    ERR_ESRCH = 3,
};

static long become_alone(struct sl_spawn *spawn)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    long result = RAW(__NR_prctl, PR_SET_PDEATHSIG, KILL_SIGNAL, 0, 0, 0);
    /* The guard executes after this process, so its word is cleared only if it died before the line above could see it. */
    if (result >= 0 && !__atomic_load_n(&spawn->guard_tid, __ATOMIC_ACQUIRE))
        result = -ERR_ESRCH;
    if (result >= 0)
        result = RAW(__NR_capset, &header, none);
    if (result >= 0)
        result = RAW(__NR_chdir, "/"); /* the host's folder is nobody's business in /proc/1/cwd */
    if (result >= 0 && spawn->guard_program != PROGRAM)
        result = RAW(__NR_dup3, spawn->guard_program, PROGRAM, O_CLOEXEC);
    int first = PROGRAM + 1;
    for (int index = 0; result >= 0 && index <= SL_LIVE_STAT && spawn->live[index] >= 0; index++)
        result = RAW(__NR_dup3, spawn->live[index], first++, 0);
    if (result >= 0)
        result = RAW(__NR_close_range, first, ~0U, 0);
    return result;
}

int sl_init_main(void *argument)
{
    struct sl_spawn *spawn = argument;
    char *argv[] = {"sandlock-init", 0};
    char *envp[] = {0};
    long result = become_alone(spawn);
    if (result >= 0)
        result = RAW(__NR_execveat, PROGRAM, "", argv, envp, AT_EMPTY_PATH);
    sl_fail(spawn, SL_STEP_INIT, result, 0);
    RAW(__NR_exit_group, 127);
    return 127;
}
