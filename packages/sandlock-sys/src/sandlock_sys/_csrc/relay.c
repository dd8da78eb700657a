/* The way of a listener to the host where pidfd_getfd(2) is refused, as Docker's default profile refuses it.
 *
 * Behind the filter the child can send nothing: the call might be one that waits for the very supervisor that has no
 * listener yet. So before the filter it makes a thread, which the filter of another thread does not reach. The thread waits
 * for the listener's number, sends the fd over a socket of the host's, closes the socket and ends. It runs this code only,
 * in memory that the program never sees, and is gone before there is a program.
 *
 * As in child.c: no libc call but clone(3), no errno that anybody reads.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "relay.h"

#include <linux/futex.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "child.h"
#include "raw.h"

enum { NOT_CLONED = -1, MAX_PASSED = 2, ERR_EAGAIN = 11 };

static long pass(const struct sl_spawn *spawn)
{
    char content = 'L';
    struct iovec part = {&content, 1};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(MAX_PASSED * sizeof(int))];
    } control = {.bytes = {0}};
    unsigned int passed = spawn->live[SL_LIVE_HOST] >= 0 ? 2 : 1;
    int *fds = (int *)CMSG_DATA(&control.header);
    fds[0] = spawn->listener;
    if (passed == MAX_PASSED)
        fds[1] = spawn->live[SL_LIVE_HOST];
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(passed * sizeof(int));
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = CMSG_SPACE(passed * sizeof(int))};
    return RAW(__NR_sendmsg, spawn->relay, &message, MSG_NOSIGNAL);
}

static int relay_main(void *argument)
{
    struct sl_spawn *spawn = argument;
    while (__atomic_load_n(&spawn->listener, __ATOMIC_ACQUIRE) < 0)
        RAW(__NR_futex, &spawn->listener, FUTEX_WAIT, (uint32_t)-1, 0);
    long result = pass(spawn);
    spawn->relayed = result < 0 ? (int32_t)result : 0;
    RAW(__NR_close, spawn->relay); /* the child's too: the table is one */
    RAW(__NR_exit, 0);             /* this thread; the kernel clears relay_tid */
    return 0;
}

long sl_relay_begin(struct sl_spawn *spawn, void *stack)
{
    if (spawn->relay < 0)
        return 0;
    spawn->relay_tid = NOT_CLONED;
    int tid = clone(relay_main, (char *)stack + SL_RELAY_STACK,
                    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID,
                    spawn, NULL, NULL, &spawn->relay_tid);
    return tid < 0 ? -ERR_EAGAIN : 0; /* the limit on processes; errno may be somebody else's */
}

long sl_relay_end(struct sl_spawn *spawn)
{
    if (spawn->relay < 0)
        return 0;
    RAW(__NR_futex, &spawn->listener, FUTEX_WAKE, 1);
    sl_wait_cleared(&spawn->relay_tid);
    return spawn->relayed;
}
