#ifndef SANDLOCK_RELAY_H
#define SANDLOCK_RELAY_H

#include "spawn.h"

enum { SL_RELAY_STACK = 4096 };

/* Where `relay` is a socket: make the task that will pass the listener over it. 0 or -errno. `stack` of SL_RELAY_STACK bytes
 * stays until sl_relay_end. */
long sl_relay_begin(struct sl_spawn *spawn, void *stack);

/* Wait until it has passed `listener`, and what LIVE_HOST names, and is gone; 0 or -errno. */
long sl_relay_end(struct sl_spawn *spawn);

#endif
