#ifndef SANDLOCK_OPENAT2_H
#define SANDLOCK_OPENAT2_H

#include <stdint.h>

/* struct open_how of linux/openat2.h, 5.6 */
struct sl_open_how {
    uint64_t flags;
    uint64_t mode;
    uint64_t resolve;
};

long sl_openat2(int directory, const char *path, const struct sl_open_how *how);

#endif
