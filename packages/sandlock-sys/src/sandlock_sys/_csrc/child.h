#ifndef SANDLOCK_CHILD_H
#define SANDLOCK_CHILD_H

#include "spawn.h"

/* Everything between clone and exec; never returns to its caller's caller. `argument` is a struct sl_spawn. */
int sl_child_main(void *argument);

/* Shared with the guard's side of the launch. */
void sl_reset_signal(int number);
void sl_fail(struct sl_spawn *spawn, uint32_t step, long result, uint32_t detail);


/* Wait until the kernel has cleared the word of a process that executes or ends. */
void sl_wait_cleared(int32_t *word);

#endif
