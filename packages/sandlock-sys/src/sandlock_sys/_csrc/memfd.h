#ifndef SANDLOCK_MEMFD_H
#define SANDLOCK_MEMFD_H

#include <stdint.h>

long sl_memfd_create(const char *name, uint32_t flags);
long sl_memfd_add_seals(int fd, uint32_t seals);
long sl_memfd_get_seals(int fd);

#endif
