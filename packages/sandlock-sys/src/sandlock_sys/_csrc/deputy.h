#ifndef SANDLOCK_DEPUTY_H
#define SANDLOCK_DEPUTY_H

#include <stdint.h>

/* The first slots are handed out by the interpreter's side, the others by C (shortcut.c): neither asks the other. */
enum { SL_DEPUTY_SLOTS = 64, SL_DEPUTY_OWN = 16, SL_DEPUTY_QUEUE = 128, SL_DEPUTY_BYTES = 8192 };

/* What the deputy does besides system calls; no architecture has such numbers. */
enum {
    SL_DEPUTY_SPAWN = 0x7fffffff,    /* sl_spawn of the struct sl_spawn at arguments[0] */
    SL_DEPUTY_RESTRICT = 0x7ffffffe, /* no_new_privs, then landlock_restrict_self(arguments[0], arguments[1]) */
};

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
    uint32_t number;         /* system call number, or SL_DEPUTY_* */
    uint32_t answer;         /* enum sl_deputy_answer */
    uint32_t buffer_mask;    /* bit N: arguments[N] is an offset into `buffer`, made an address here */
    uint32_t fd_flags;       /* O_CLOEXEC or 0, for the injected fd */
    uint32_t state;          /* futex: 0 free, 1 submitted, 2 done */
    int32_t lent;            /* an fd + 1: nobody collects the slot; when it is done the fd is closed and the slot free. Or 0 */
    char buffer[SL_DEPUTY_BYTES];
};

struct sl_deputy {
    struct sl_deputy_slot slots[SL_DEPUTY_SLOTS + SL_DEPUTY_OWN];
    uint32_t queue[SL_DEPUTY_QUEUE]; /* of slots, in the order of submission; there are fewer of them than places */
    uint32_t bell;           /* futex: counts submissions, so the next goes to queue[bell % SL_DEPUTY_QUEUE] */
    uint32_t taken;          /* the deputy's own count */
    uint32_t finished;       /* counts what it is done with */
    int64_t begun_ns;        /* CLOCK_MONOTONIC when it began its last call, or was rung out of its rest */
    uint32_t locked;         /* by who submits, or stops: a few instructions long */
    uint32_t stop;
    int32_t completions;     /* eventfd that the loop reads */
    int32_t listener;        /* for answers, or -1 */
    int32_t thread_id;       /* futex: 0 until the thread runs */
    int32_t own_folder;      /* the thread has a working directory and a umask of its own (0 where unshare is refused) */
};

/* Start the deputy of one sandbox: a thread of this process, every signal blocked. 0, or -errno. */
long sl_deputy_start(struct sl_deputy **started);

/* Submit slot `index`, which the caller has filled; it belongs to the deputy until its state is 2. Calls are made in
 * the order of submission. A deputy that was stopped does nothing: the slot is done at once, with -ECANCELED. */
void sl_deputy_submit(struct sl_deputy *deputy, uint32_t index);

/* How long, in nanoseconds, the deputy has been in one call; 0 when it has nothing to do. */
int64_t sl_deputy_busy(struct sl_deputy *deputy);

/* Wait until slot `index` is done, at most until CLOCK_MONOTONIC says `deadline_ns` (-1: no bound).
 * 0, or -ETIMEDOUT, or -EINTR so that the caller can run its signal handlers. */
long sl_deputy_wait(struct sl_deputy *deputy, uint32_t index, int64_t deadline_ns);

/* Submit slot `index` and wait until it is done, whatever signals come: for what the deputy must not be left alone with. */
void sl_deputy_call(struct sl_deputy *deputy, uint32_t index);

/* End the thread, after the call that it is in. What was submitted and not begun is done with -ECANCELED, unanswered. */
void sl_deputy_stop(struct sl_deputy *deputy);

/* Give the ring back, after sl_deputy_stop and when nobody is in sl_deputy_wait. */
void sl_deputy_free(struct sl_deputy *deputy);

#endif
