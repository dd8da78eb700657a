#include "kcmp.h"

#include "raw.h"

long sl_kcmp(int pid, int other, int type, uint64_t index, uint64_t other_index)
{
    return RAW(__NR_kcmp, pid, other, type, index, other_index);
}
