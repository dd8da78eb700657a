#include "splice.h"

#include "raw.h"

long sl_tee(int source, int target, size_t length, uint32_t flags)
{
    return RAW(__NR_tee, source, target, length, flags);
}
