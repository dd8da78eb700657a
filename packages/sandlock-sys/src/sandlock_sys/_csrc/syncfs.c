#include "syncfs.h"

#include "raw.h"

long sl_syncfs(int fd)
{
    return RAW(__NR_syncfs, fd);
}
