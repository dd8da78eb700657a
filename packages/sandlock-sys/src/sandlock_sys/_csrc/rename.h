#ifndef SANDLOCK_RENAME_H
#define SANDLOCK_RENAME_H

#include <stdint.h>

long sl_renameat2(int from_directory, const char *from, int to_directory, const char *to, uint32_t flags);

#endif
