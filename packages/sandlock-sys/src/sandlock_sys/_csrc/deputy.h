#ifndef SANDLOCK_DEPUTY_H
#define SANDLOCK_DEPUTY_H

#include <stdint.h>

enum { SL_DEPUTY_SLOTS = 64, SL_DEPUTY_BYTES = 8192 };

/* What is done with the result of a call. */
enum sl_deputy_answer {
    SL_ANSWER_COMPLETE = 0, /* the completion only: the eventfd becomes readable */
    SL_ANSWER_VALUE = 1,    /* also answers the notification: the value, or the errno */
    SL_ANSWER_FD = 2,       /* also injects the fd that the call returned (ADDFD with SEND) and closes it here */
};

/* One submission: a system call, its buffers, and where the result goes. */
struct sl_deputy_slot {
    uint64_t arguments[6];
    uint64_t notification;   /* id, with SL_ANSWER_VALUE and SL_ANSWER_FD */
    int64_t result;          /* the kernel's value or -errno */
    int64_t answered;        /* of the answer: 0 or the child's fd, or -errno (ENOENT: nobody waits any more) */
    uint32_t number;         /* system call number; 0xffffffff: sl_spawn of the pointer in arguments[0] */
    uint32_t answer;         /* enum sl_deputy_answer */
    uint32_t buffer_mask;    /* bit N: arguments[N] is an offset into `buffer`, made an address here */
    uint32_t fd_flags;       /* O_CLOEXEC or 0, for the injected fd */
    uint32_t state;          /* futex: 0 free, 1 submitted, 2 taken, 3 done */
    uint32_t reserved;
    char buffer[SL_DEPUTY_BYTES];
};

struct sl_deputy {
    struct sl_deputy_slot slots[SL_DEPUTY_SLOTS];
    uint32_t bell;           /* futex: counts submissions */
    uint32_t stop;
    int32_t completions;     /* eventfd that the loop reads */
    int32_t listener;        /* for answers, or -1 */
    int32_t thread_id;
    uint32_t next;           /* the slot the deputy looks at first */
};

/* Start the deputy of one sandbox: a thread of this process, every signal blocked. NULL with no memory or no thread. */
struct sl_deputy *sl_deputy_start(void);

/* Submit slot `index`, which the caller has filled; it belongs to the deputy until its state is 3. */
void sl_deputy_submit(struct sl_deputy *deputy, uint32_t index);

/* Wait until slot `index` is done, at most `timeout_ms` (-1: no bound). 0, or -ETIMEDOUT. */
long sl_deputy_wait(struct sl_deputy *deputy, uint32_t index, int64_t timeout_ms);

/* End the thread and free the ring; it waits for a call that the deputy is in. */
void sl_deputy_stop(struct sl_deputy *deputy);

#endif
