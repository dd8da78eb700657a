#ifndef SANDLOCK_CAPABILITIES_H
#define SANDLOCK_CAPABILITIES_H

#include <stdint.h>

/* Make `effective` the calling thread's effective capabilities; what it had before goes into `before`. */
long sl_capabilities_set(uint64_t effective, uint64_t *before);

#endif
