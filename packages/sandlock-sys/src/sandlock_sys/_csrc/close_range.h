#ifndef SANDLOCK_CLOSE_RANGE_H
#define SANDLOCK_CLOSE_RANGE_H

#include <stdint.h>

long sl_close_range(uint32_t first, uint32_t last, uint32_t flags);

#endif
