/* The deputy: one thread a sandbox that executes system calls inside the sandbox's Landlock domain.
 *
 * It has no policy in it. The loop thread decides, fills a slot and rings; the deputy makes the call, so the kernel
 * checks it against the same rules as the child's own calls, and answers the child itself where it was told to.
 * No Python runs on it, and no libc but the thread's own start and end.
 */
#define _GNU_SOURCE
#include "deputy.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>

#include "raw.h"
#include "spawn.h"

enum { FREE, SUBMITTED, DONE };
enum { STACK_BYTES = 128 * 1024 }; /* with room for the thread-local storage of every library in the host */

#ifndef __NR_landlock_restrict_self
#define __NR_landlock_restrict_self 446 /* 5.13, the same number everywhere */
#endif

#define NOTIF_SEND 0xc0182101UL  /* SECCOMP_IOCTL_NOTIF_SEND, linux/seccomp.h, 5.0 */
#define NOTIF_ADDFD 0x40182103UL /* SECCOMP_IOCTL_NOTIF_ADDFD, 5.9 */
#define ADDFD_SEND (1U << 1)     /* SECCOMP_ADDFD_FLAG_SEND, 5.14: one step, so no fd is left behind */

struct response { /* struct seccomp_notif_resp */
    uint64_t id;
    int64_t value;
    int32_t error;
    uint32_t flags;
};

struct injected { /* struct seccomp_notif_addfd */
    uint64_t id;
    uint32_t flags, source, target, fd_flags;
};

struct ring { /* what the face does not show */
    struct sl_deputy shared;
    pthread_t thread;
};

_Static_assert(sizeof(struct response) == 24 && sizeof(struct injected) == 24, "linux/seccomp.h");
_Static_assert(offsetof(struct ring, shared) == 0, "sl_deputy_stop casts");

static long listener_ioctl(const struct sl_deputy *deputy, unsigned long request, void *argument)
{
    long result;
    do
        result = RAW(__NR_ioctl, deputy->listener, request, argument);
    while (result == -EINTR); /* every signal is blocked, but the host may be stopped and continued */
    return result;
}

static int64_t answer_value(struct sl_deputy *deputy, const struct sl_deputy_slot *slot, int64_t result)
{
    struct response response = {.id = slot->notification};
    if (result < 0)
        response.error = (int32_t)result;
    else
        response.value = result;
    return listener_ioctl(deputy, NOTIF_SEND, &response);
}

static long restrict_self(uint64_t ruleset, uint64_t flags)
{
    long result = RAW(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); /* this thread's, as the domain is */
    return result < 0 ? result : RAW(__NR_landlock_restrict_self, ruleset, flags);
}

static void answer(struct sl_deputy *deputy, struct sl_deputy_slot *slot)
{
    if (slot->answer == SL_ANSWER_VALUE || (slot->answer == SL_ANSWER_FD && slot->result < 0)) {
        slot->answered = answer_value(deputy, slot, slot->result);
        return;
    }
    if (slot->answer != SL_ANSWER_FD)
        return;
    struct injected injected = {.id = slot->notification, .flags = ADDFD_SEND, .source = (uint32_t)slot->result,
                                .fd_flags = slot->fd_flags};
    slot->answered = listener_ioctl(deputy, NOTIF_ADDFD, &injected);
    RAW(__NR_close, slot->result);
    /* The child's table is full, or the kernel refused: it gets the errno, never the unmediated call. */
    if (slot->answered < 0 && slot->answered != -ENOENT)
        answer_value(deputy, slot, slot->answered);
}

static void complete(struct sl_deputy *deputy, struct sl_deputy_slot *slot)
{
    uint64_t one = 1;
    if (slot->lent) {
        RAW(__NR_close, slot->lent - 1);
        __atomic_store_n(&slot->state, FREE, __ATOMIC_RELEASE);
        return;
    }
    __atomic_store_n(&slot->state, DONE, __ATOMIC_RELEASE);
    RAW(__NR_futex, &slot->state, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX);
    RAW(__NR_write, deputy->completions, &one, sizeof one);
}

/* By the vDSO: no lock is taken. */
static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void execute(struct sl_deputy *deputy, struct sl_deputy_slot *slot)
{
    __atomic_store_n(&deputy->begun_ns, now_ns(), __ATOMIC_RELAXED);
    uint64_t values[6];
    for (int index = 0; index < 6; index++)
        values[index] = slot->buffer_mask & (1U << index) ? (uint64_t)(uintptr_t)slot->buffer + slot->arguments[index]
                                                          : slot->arguments[index];
    if (slot->number == SL_DEPUTY_SPAWN)
        slot->result = sl_spawn((struct sl_spawn *)(uintptr_t)values[0]);
    else if (slot->number == SL_DEPUTY_RESTRICT)
        slot->result = restrict_self(values[0], values[1]);
    else
        slot->result = raw_syscall6(slot->number, (long)values[0], (long)values[1], (long)values[2], (long)values[3],
                                    (long)values[4], (long)values[5]);
    answer(deputy, slot);
    complete(deputy, slot);
    __atomic_add_fetch(&deputy->finished, 1, __ATOMIC_RELEASE);
}

static void *run(void *argument)
{
    struct sl_deputy *deputy = argument;
    RAW(__NR_prctl, PR_SET_NAME, "sandlock-deputy", 0, 0, 0);
    deputy->own_folder = RAW(__NR_unshare, CLONE_FS) == 0; /* chdir and umask for the child must not be the host's */
    __atomic_store_n(&deputy->thread_id, (int32_t)RAW(__NR_gettid), __ATOMIC_RELEASE);
    RAW(__NR_futex, &deputy->thread_id, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX);
    for (;;) {
        uint32_t bell = __atomic_load_n(&deputy->bell, __ATOMIC_ACQUIRE);
        if (__atomic_load_n(&deputy->stop, __ATOMIC_ACQUIRE))
            break; /* looked at after the bell, whose last ring stands for no submission */
        if (deputy->taken == bell)
            RAW(__NR_futex, &deputy->bell, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, bell, 0);
        else
            execute(deputy, &deputy->slots[deputy->queue[deputy->taken++ % SL_DEPUTY_QUEUE]]);
    }
    return NULL;
}

static int start_thread(struct ring *ring)
{
    pthread_attr_t attributes;
    sigset_t every, before;
    if (pthread_attr_init(&attributes))
        return ENOMEM;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before); /* the host's handlers must not run inside the domain */
    int failed = pthread_create(&ring->thread, &attributes, run, &ring->shared);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed;
}

long sl_deputy_start(struct sl_deputy **started)
{
    struct ring *ring = mmap(NULL, sizeof *ring, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED)
        return -ENOMEM;
    ring->shared.listener = -1;
    long result = RAW(__NR_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (result >= 0) {
        ring->shared.completions = (int32_t)result;
        result = -start_thread(ring);
        if (result)
            RAW(__NR_close, ring->shared.completions);
    }
    if (result) {
        munmap(ring, sizeof *ring);
        return result;
    }
    while (!__atomic_load_n(&ring->shared.thread_id, __ATOMIC_ACQUIRE))
        RAW(__NR_futex, &ring->shared.thread_id, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, 0);
    *started = &ring->shared;
    return 0;
}

static void lock(struct sl_deputy *deputy)
{
    while (__atomic_exchange_n(&deputy->locked, 1, __ATOMIC_ACQUIRE))
        RAW(__NR_sched_yield);
}

static void unlock(struct sl_deputy *deputy)
{
    __atomic_store_n(&deputy->locked, 0, __ATOMIC_RELEASE);
}

/* Under the lock; the bell rings once more than there are submissions when the deputy is to stop. */
static void ring_bell(struct sl_deputy *deputy)
{
    __atomic_add_fetch(&deputy->bell, 1, __ATOMIC_ACQ_REL);
    RAW(__NR_futex, &deputy->bell, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
}

void sl_deputy_submit(struct sl_deputy *deputy, uint32_t index)
{
    struct sl_deputy_slot *slot = &deputy->slots[index];
    lock(deputy);
    uint32_t stopped = deputy->stop;
    slot->state = SUBMITTED;
    if (!stopped) {
        if (deputy->bell == __atomic_load_n(&deputy->finished, __ATOMIC_ACQUIRE))
            __atomic_store_n(&deputy->begun_ns, now_ns(), __ATOMIC_RELAXED);
        deputy->queue[deputy->bell % SL_DEPUTY_QUEUE] = index;
        ring_bell(deputy);
    }
    unlock(deputy);
    if (stopped) {
        slot->result = -ECANCELED;
        complete(deputy, slot);
    }
}

int64_t sl_deputy_busy(struct sl_deputy *deputy)
{
    /* The time is read first: what is done or begun meanwhile makes it look shorter, never longer. */
    int64_t now = now_ns();
    if (__atomic_load_n(&deputy->finished, __ATOMIC_ACQUIRE) == __atomic_load_n(&deputy->bell, __ATOMIC_ACQUIRE))
        return 0;
    int64_t since = now - __atomic_load_n(&deputy->begun_ns, __ATOMIC_RELAXED);
    return since > 0 ? since : 1;
}

void sl_deputy_call(struct sl_deputy *deputy, uint32_t index)
{
    sl_deputy_submit(deputy, index);
    while (sl_deputy_wait(deputy, index, -1))
        continue;
}

long sl_deputy_wait(struct sl_deputy *deputy, uint32_t index, int64_t deadline_ns)
{
    struct timespec deadline = {.tv_sec = deadline_ns / 1000000000, .tv_nsec = deadline_ns % 1000000000};
    uint32_t *word = &deputy->slots[index].state, state;
    while ((state = __atomic_load_n(word, __ATOMIC_ACQUIRE)) != DONE) {
        long result = RAW(__NR_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, state,
                          deadline_ns < 0 ? NULL : &deadline, 0, FUTEX_BITSET_MATCH_ANY);
        if (result == -ETIMEDOUT || result == -EINTR)
            return result;
    }
    return 0;
}

void sl_deputy_stop(struct sl_deputy *deputy)
{
    struct ring *ring = (struct ring *)deputy;
    lock(deputy);
    __atomic_store_n(&deputy->stop, 1, __ATOMIC_RELEASE);
    uint32_t bell = deputy->bell;
    ring_bell(deputy);
    unlock(deputy);
    pthread_join(ring->thread, NULL);
    for (; deputy->taken != bell; deputy->taken++) {
        struct sl_deputy_slot *slot = &deputy->slots[deputy->queue[deputy->taken % SL_DEPUTY_QUEUE]];
        slot->result = -ECANCELED;
        complete(deputy, slot);
    }
}

void sl_deputy_free(struct sl_deputy *deputy)
{
    RAW(__NR_close, deputy->completions);
    munmap(deputy, sizeof(struct ring));
}
