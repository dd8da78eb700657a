#include "memfd.h"

#include "raw.h"

/* Commands of fcntl(2), linux/fcntl.h, 3.17 */
#define ADD_SEALS 1033
#define GET_SEALS 1034

long sl_memfd_create(const char *name, uint32_t flags)
{
    return RAW(__NR_memfd_create, name, flags);
}

long sl_memfd_add_seals(int fd, uint32_t seals)
{
    return RAW(__NR_fcntl, fd, ADD_SEALS, seals);
}

long sl_memfd_get_seals(int fd)
{
    return RAW(__NR_fcntl, fd, GET_SEALS, 0);
}
