/* The init of a pid namespace: reaps its orphans, passes signals on to everyone, and tells how busy they are.
 *
 * The first program of the sandbox is the guard's own child, born into the namespace after this process, so its status
 * and its signals need nobody here. With the end of this process the kernel ends all others.
 */
#ifndef SANDLOCK_GUARD_INIT_H
#define SANDLOCK_GUARD_INIT_H

#include <linux/prctl.h>

#include "guard_loop.h"
#include "guard_machine.h"

static void serve_as_init(void)
{
    uint64_t every = ~0ULL;
    /* Blocked signals wait, also here, where the kernel drops others that init does not handle. */
    RAW(__NR_rt_sigprocmask, GUARD_BLOCK, &every, 0, GUARD_SIGSET_BYTES);
    RAW(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0); /* without Landlock nobody else keeps the program out of it */
    RAW(__NR_prctl, PR_SET_NAME, "sandlock-init", 0, 0, 0); /* the first program waits for that: view.c */
    int telling = begin_machine();
    uint64_t due_s = monotonic_s() + MACHINE_PERIOD;
    for (;;) {
        int count = 0; /* bounded: orphans can be made to die faster than they are reaped */
        while (count < GUARD_REAPS && RAW(__NR_wait4, -1, 0, GUARD_NO_HANG | GUARD_ANY_CHILD, 0) > 0)
            count++;
        uint64_t now_s = monotonic_s();
        if (telling && now_s >= due_s) {
            tell_machine();
            due_s = now_s + MACHINE_PERIOD;
        }
        const struct guard_timespec left = {count < GUARD_REAPS && due_s > now_s ? (int64_t)(due_s - now_s) : 0, 0};
        const struct guard_timespec *wait = count < GUARD_REAPS && !telling ? 0 : &left;
        long signal = RAW(__NR_rt_sigtimedwait, &every, 0, wait, GUARD_SIGSET_BYTES);
        /* The program could send these itself, to everyone it reaches: nothing is gained by asking for it here. */
        if (signal > 0 && signal != GUARD_CHILD)
            RAW(__NR_kill, -1, signal == GUARD_STOP_ORDER ? GUARD_STOP : signal);
    }
}

#endif
