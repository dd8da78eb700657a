#ifndef SANDLOCK_USERFAULTFD_H
#define SANDLOCK_USERFAULTFD_H

#include <stdint.h>

long sl_userfaultfd(int flags);
long sl_userfaultfd_api(int fd, uint64_t features);
long sl_userfaultfd_register(int fd, uint64_t start, uint64_t length);
long sl_userfaultfd_unprotect(int fd, uint64_t start, uint64_t length);

#endif
