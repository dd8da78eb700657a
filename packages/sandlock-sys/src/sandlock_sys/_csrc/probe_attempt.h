/* Inside of the probe: what its processes share, and how an attempt is noted. */
#ifndef SANDLOCK_PROBE_ATTEMPT_H
#define SANDLOCK_PROBE_ATTEMPT_H

#include <stdbool.h>
#include <stddef.h>

#include "probe.h"

#define STACK_SIZE (64 * 1024)
#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* Shared by all processes of one probe; in the same place in each of them. */
struct probe {
    struct sl_probe_results results;
    int32_t *current; /* the slot of the call that is being made */
    int32_t child;    /* process id of the probing child */
    int32_t target;   /* process id of the probing child's own child while it lives */
    uint32_t uid;
    uint32_t gid;
    char child_stack[STACK_SIZE] __attribute__((aligned(16)));
    char nested_stack[STACK_SIZE] __attribute__((aligned(16)));
    char target_stack[STACK_SIZE] __attribute__((aligned(16)));
};

static inline bool todo(struct probe *probe, int32_t *slot)
{
    if (*slot != SL_PROBE_UNTRIED)
        return false;
    probe->current = slot;
    return true;
}

static inline void done(struct probe *probe, int32_t *slot, long result)
{
    *slot = (int32_t)result;
    probe->current = NULL;
}

/* Makes the call and notes its result, unless an earlier child has. */
#define TRY(slot, call)                    \
    do {                                   \
        if (todo(probe, (slot)))           \
            done(probe, (slot), (call));   \
    } while (0)
#define FEATURE(name) (&probe->results.feature[SL_PROBE_##name])

static inline long as_success(long result)
{
    return result < 0 ? result : 0;
}

/* Calls that only reach an argument check answer with an errno of their own when they are there. */
static inline long as_success_if(long result, int expected)
{
    return result == -expected ? 0 : as_success(result);
}

long probe_start(int (*function)(void *), char *stack, int flags, struct probe *probe);
bool probe_killed(long pid);
void probe_mark_killed(struct probe *probe);
int probe_leave(void);
void probe_namespaces(struct probe *probe);

#endif
