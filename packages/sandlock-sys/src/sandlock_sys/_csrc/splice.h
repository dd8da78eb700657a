#ifndef SANDLOCK_SPLICE_H
#define SANDLOCK_SPLICE_H

#include <stddef.h>
#include <stdint.h>

long sl_tee(int source, int target, size_t length, uint32_t flags);

#endif
