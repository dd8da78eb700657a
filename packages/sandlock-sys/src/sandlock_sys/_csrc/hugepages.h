#ifndef SANDLOCK_HUGEPAGES_H
#define SANDLOCK_HUGEPAGES_H

#include <stdint.h>

long sl_collapse_file(int fd, uint64_t offset, uint64_t length, uint64_t huge);

#endif
