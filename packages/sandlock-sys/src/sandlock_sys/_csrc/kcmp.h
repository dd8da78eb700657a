#ifndef SANDLOCK_KCMP_H
#define SANDLOCK_KCMP_H

#include <stdint.h>

long sl_kcmp(int pid, int other, int type, uint64_t index, uint64_t other_index);

#endif
