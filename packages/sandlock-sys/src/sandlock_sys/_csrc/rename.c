#include "rename.h"

#include "raw.h"

long sl_renameat2(int from_directory, const char *from, int to_directory, const char *to, uint32_t flags)
{
    return RAW(__NR_renameat2, from_directory, from, to_directory, to, flags);
}
