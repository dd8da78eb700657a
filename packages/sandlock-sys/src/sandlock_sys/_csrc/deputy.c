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
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>

#include "raw.h"
#include "spawn.h"

enum { FREE, SUBMITTED, TAKEN, DONE };

#define NUMBER_SPAWN 0xffffffffU
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

static int64_t answer_value(struct sl_deputy *deputy, const struct sl_deputy_slot *slot, int64_t result)
{
    struct response response = {.id = slot->notification};
    if (result < 0)
        response.error = (int32_t)result;
    else
        response.value = result;
    return RAW(__NR_ioctl, deputy->listener, NOTIF_SEND, &response);
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
    slot->answered = RAW(__NR_ioctl, deputy->listener, NOTIF_ADDFD, &injected);
    RAW(__NR_close, slot->result);
    /* The child's table is full, or the kernel refused: it gets the errno, never the unmediated call. */
    if (slot->answered < 0 && slot->answered != -ENOENT)
        answer_value(deputy, slot, slot->answered);
}

static void execute(struct sl_deputy *deputy, struct sl_deputy_slot *slot)
{
    uint64_t values[6];
    for (int index = 0; index < 6; index++)
        values[index] = slot->buffer_mask & (1U << index) ? (uint64_t)(uintptr_t)slot->buffer + slot->arguments[index]
                                                          : slot->arguments[index];
    if (slot->number == NUMBER_SPAWN)
        slot->result = sl_spawn((struct sl_spawn *)(uintptr_t)values[0]);
    else
        slot->result = raw_syscall6(slot->number, (long)values[0], (long)values[1], (long)values[2], (long)values[3],
                                    (long)values[4], (long)values[5]);
    answer(deputy, slot);
    __atomic_store_n(&slot->state, DONE, __ATOMIC_RELEASE);
    RAW(__NR_futex, &slot->state, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX);
    uint64_t one = 1;
    RAW(__NR_write, deputy->completions, &one, sizeof one);
}

static void *run(void *argument)
{
    struct sl_deputy *deputy = argument;
    deputy->thread_id = (int32_t)RAW(__NR_gettid);
    while (!__atomic_load_n(&deputy->stop, __ATOMIC_ACQUIRE)) {
        uint32_t bell = __atomic_load_n(&deputy->bell, __ATOMIC_ACQUIRE);
        int worked = 0;
        for (uint32_t count = 0; count < SL_DEPUTY_SLOTS; count++) {
            struct sl_deputy_slot *slot = &deputy->slots[(deputy->next + count) % SL_DEPUTY_SLOTS];
            uint32_t expected = SUBMITTED;
            if (!__atomic_compare_exchange_n(&slot->state, &expected, TAKEN, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
                continue;
            deputy->next = (deputy->next + count + 1) % SL_DEPUTY_SLOTS; /* the next one first: nobody starves */
            execute(deputy, slot);
            worked = 1;
            break;
        }
        if (!worked)
            RAW(__NR_futex, &deputy->bell, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, bell, 0);
    }
    return NULL;
}

static int start_thread(struct ring *ring)
{
    pthread_attr_t attributes;
    sigset_t every, before;
    if (pthread_attr_init(&attributes))
        return -1;
    pthread_attr_setstacksize(&attributes, 16384 + 64 * 1024);
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before); /* the host's handlers must not run inside the domain */
    int failed = pthread_create(&ring->thread, &attributes, run, &ring->shared);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed;
}

struct sl_deputy *sl_deputy_start(void)
{
    struct ring *ring = mmap(NULL, sizeof *ring, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED)
        return NULL;
    ring->shared.listener = -1;
    ring->shared.completions = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ring->shared.completions >= 0 && !start_thread(ring))
        return &ring->shared;
    if (ring->shared.completions >= 0)
        RAW(__NR_close, ring->shared.completions);
    munmap(ring, sizeof *ring);
    return NULL;
}

void sl_deputy_submit(struct sl_deputy *deputy, uint32_t index)
{
    __atomic_store_n(&deputy->slots[index].state, SUBMITTED, __ATOMIC_RELEASE);
    __atomic_add_fetch(&deputy->bell, 1, __ATOMIC_ACQ_REL);
    RAW(__NR_futex, &deputy->bell, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
}

long sl_deputy_wait(struct sl_deputy *deputy, uint32_t index, int64_t timeout_ms)
{
    struct timespec timeout = {.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1000000};
    uint32_t state;
    while ((state = __atomic_load_n(&deputy->slots[index].state, __ATOMIC_ACQUIRE)) != DONE) {
        long result = RAW(__NR_futex, &deputy->slots[index].state, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, state,
                          timeout_ms < 0 ? NULL : &timeout);
        if (result == -ETIMEDOUT)
            return result;
    }
    return 0;
}

void sl_deputy_stop(struct sl_deputy *deputy)
{
    struct ring *ring = (struct ring *)deputy;
    __atomic_store_n(&deputy->stop, 1, __ATOMIC_RELEASE);
    __atomic_add_fetch(&deputy->bell, 1, __ATOMIC_ACQ_REL);
    RAW(__NR_futex, &deputy->bell, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
    pthread_join(ring->thread, NULL);
    RAW(__NR_close, deputy->completions);
    munmap(ring, sizeof *ring);
}
