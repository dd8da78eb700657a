/* For tools/sanitize.py: all who use the ring of a deputy at once, for ThreadSanitizer to look at.
 *
 * The interpreter's threads submit and collect under one lock (sandlock_sys/deputy.py), C submits slots of its own without it,
 * everyone asks how busy the deputy is, and it is stopped while there is work.
 */
#include <asm/unistd.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "deputy.h"
#include "spawn.h"

enum { SUBMITTERS = 3, TIMES = 3000, LAUNCHES = 30 };

static struct sl_deputy *deputy;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int taken[SL_DEPUTY_SLOTS];
static uint64_t wrong;

long sl_spawn(struct sl_spawn *spawn)
{
    (void)spawn;
    return -ENOSYS;
}

static long take(void)
{
    long found = -1;
    pthread_mutex_lock(&lock);
    for (long index = 0; index < SL_DEPUTY_SLOTS && found < 0; index++)
        if (!taken[index])
            taken[found = index] = 1;
    pthread_mutex_unlock(&lock);
    return found;
}

static void give_back(long index)
{
    pthread_mutex_lock(&lock);
    taken[index] = 0;
    pthread_mutex_unlock(&lock);
}

/* As Deputy.submit and Deputy.wait. */
static void *submit(void *argument)
{
    char text[64] = "";
    (void)argument;
    for (int time = 0; time < TIMES; time++) {
        long index = take();
        struct sl_deputy_slot *slot = &deputy->slots[index];
        pthread_mutex_lock(&lock);
        slot->number = time % 3 ? __NR_getppid : __NR_getcwd;
        slot->arguments[0] = 0;
        slot->arguments[1] = sizeof text;
        slot->buffer_mask = 1;
        slot->answer = slot->state = 0;
        slot->result = 0;
        sl_deputy_submit(deputy, (uint32_t)index);
        pthread_mutex_unlock(&lock);
        while (sl_deputy_wait(deputy, (uint32_t)index, -1))
            continue;
        memcpy(text, slot->buffer, sizeof text);
        if (slot->result < 0 && slot->result != -ECANCELED)
            __atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
        give_back(index);
    }
    return NULL;
}

/* As open_object of shortcut.c. */
static void *lend(void *argument)
{
    (void)argument;
    for (int time = 0; time < TIMES; time++) {
        sl_deputy_busy(deputy);
        for (uint32_t index = SL_DEPUTY_SLOTS; index < SL_DEPUTY_SLOTS + SL_DEPUTY_OWN; index++) {
            struct sl_deputy_slot *slot = &deputy->slots[index];
            if (__atomic_load_n(&slot->state, __ATOMIC_ACQUIRE))
                continue;
            memset(slot, 0, offsetof(struct sl_deputy_slot, buffer));
            strcpy(slot->buffer, "/");
            slot->number = __NR_getppid;
            slot->lent = dup(2) + 1;
            sl_deputy_submit(deputy, index);
            break;
        }
    }
    return NULL;
}

int main(void)
{
    for (int launch = 0; launch < LAUNCHES; launch++) {
        pthread_t threads[SUBMITTERS + 1];
        if (sl_deputy_start(&deputy))
            return 1;
        for (int index = 0; index <= SUBMITTERS; index++)
            pthread_create(&threads[index], NULL, index < SUBMITTERS ? submit : lend, NULL);
        usleep((useconds_t)(launch * 300));
        sl_deputy_stop(deputy);
        for (int index = 0; index <= SUBMITTERS; index++)
            pthread_join(threads[index], NULL);
        sl_deputy_free(deputy);
        memset(taken, 0, sizeof taken);
    }
    int free_fd = dup(2);
    printf("%d wrong, next fd %d\n", (int)wrong, free_fd);
    return wrong || free_fd > 8;
}
