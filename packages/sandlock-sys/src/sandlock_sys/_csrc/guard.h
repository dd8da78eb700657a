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

enum sl_report_kind {
    SL_REPORT_MAIN = 1, /* the first process has ended; others would not die at once */
    SL_REPORT_GONE = 2, /* no process of the sandbox is left; always the last */
};

struct sl_report {
    uint32_t kind;
    int32_t status;     /* wait status of the first process */
    uint32_t reaped;    /* processes that ended as children of the guard */
    uint32_t reserved;
    uint64_t user_us;   /* of all that were waited for, by the guard or by their parents */
    uint64_t system_us;
    uint64_t peak_kib;  /* the largest single process */
};

#endif
