/* What the host and the guard tell each other over the control socket (SOCK_SEQPACKET: one struct a message). */
#ifndef SANDLOCK_GUARD_H
#define SANDLOCK_GUARD_H

#include <stdint.h>

enum sl_order_kind {
    SL_ORDER_KILL = 1,        /* SIGKILL to everything, then the last report */
    SL_ORDER_SIGNAL_ALL = 2,  /* `signal` to every process of the sandbox */
    SL_ORDER_SIGNAL_MAIN = 3, /* `signal` to the first process */
};

struct sl_order {
    uint32_t kind;
    int32_t signal;
};

/* Sent once, when no process of the sandbox is left; then the guard ends. */
struct sl_report {
    int32_t status;     /* wait status of the first process */
    uint32_t reaped;    /* processes that ended as children of the guard */
    uint64_t user_us;   /* of all that were waited for, by the guard or by their parents */
    uint64_t system_us;
    uint64_t peak_kib;  /* the largest single process; 0: below the host's own */
};

enum { SL_GUARD_ARGUMENTS = 9 }; /* of the guard program, its name included */

/* Host side: send one order, without SIGPIPE; -EAGAIN when the guard has left too many unread. */
long sl_guard_order(int control, uint32_t kind, int32_t signal);

/* Host side: shutdown(2) of the control socket. Closing it would not do where a forked process has a copy. */
long sl_guard_hang_up(int control, int how);

long sl_close(int fd);

#endif
